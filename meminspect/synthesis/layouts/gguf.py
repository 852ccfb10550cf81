"""A GGUF file of plain tensors, with the model's own names rather than llama.cpp's.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from meminspect.dtypes import GGML_TYPES
from meminspect.errors import UsageError
from meminspect.synthesis.plan import Layout, Plan, PlannedFile, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import PlannedTensor, SynthesisSpec

__all__ = ["LAYOUT"]

_ALIGNMENT: Final = 32
_VERSION: Final = 3
_STRING: Final = 8
_TYPES: Final = {dtype: number for number, dtype in GGML_TYPES.items()}


def _plan(spec: SynthesisSpec) -> Plan:
    if spec.shards != 1:
        raise UsageError("the layout 'gguf' is written as one file", "leave out --shards")
    tensors = tuple(whole(spec))
    odd = next((tensor for tensor in tensors if tensor.dtype not in _TYPES), None)
    if odd is not None:
        raise UsageError(f"the layout 'gguf' has no {odd.dtype}", "choose float32, float16 or bfloat16")
    write = functools.partial(_write, architecture=spec.architecture.id, tensors=tensors)
    return Plan((PlannedFile("model.gguf", tensors, write),), {})


def _write(output: Output, architecture: str, tensors: Sequence[PlannedTensor]) -> None:
    header = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), 1)]
    header += [_text("general.architecture"), struct.pack("<I", _STRING), _text(architecture)]
    offset = 0
    for tensor in tensors:
        shape = tensor.shape[::-1]
        header.append(_text(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", _TYPES[tensor.dtype], offset))
        offset += _padded(tensor.source.nbytes)
    output.header(b"".join(header))
    output.header(bytes(_padded(output.position) - output.position))
    for tensor in tensors:
        output.tensor(tensor.source)
        output.header(bytes(_padded(tensor.source.nbytes) - tensor.source.nbytes))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


LAYOUT = Layout(
    id="gguf",
    summary="model.gguf of plain tensors under the model's own names",
    namings={"llama": ("hf", "meta"), "gpt2": ("hf", "teaching")},
    plan=_plan,
)
