"""The safetensors format, byte for byte as its library writes it.

Source: https://github.com/huggingface/safetensors, README.md (Format) and safetensors/src/tensor.rs (`prepare`):
tensors by alignment, the largest first, then by name;
the header compact JSON, filled with spaces to a multiple of eight bytes.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Final

from meminspect.dtypes import SAFETENSORS_CODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import PlannedTensor

__all__ = ["write_safetensors"]

_CODES: Final = {dtype: code for code, dtype in SAFETENSORS_CODES.items()}
# The order of tensor.rs, enum Dtype, by which the library compares.
_RANKS: Final = {
    code: rank
    for rank, code in enumerate(
        [
            "BOOL",
            "F4",
            "F6_E2M3",
            "F6_E3M2",
            "U8",
            "I8",
            "F8_E5M2",
            "F8_E4M3",
            "F8_E8M0",
            "I16",
            "U16",
            "F16",
            "BF16",
            "I32",
            "U32",
            "F32",
            "C64",
            "F64",
            "I64",
            "U64",
        ]
    )
}


def write_safetensors(output: Output, tensors: Sequence[PlannedTensor]) -> None:
    """Write one file with the metadata that Hugging Face's loaders insist on."""
    ordered = sorted(tensors, key=lambda tensor: (-_RANKS[_CODES[tensor.dtype]], tensor.name.encode()))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.source.nbytes
        header[tensor.name] = {"dtype": _CODES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    output.header(struct.pack("<Q", len(text)) + text)
    for tensor in ordered:
        output.tensor(tensor.source)
