"""Meta's layout: params.json and consolidated.NN.pth, which are slices of one model if there are several.

Source: github.com/meta-llama/llama, llama/generation.py (`Llama.build`); fairscale's ColumnParallelLinear,
RowParallelLinear and ParallelEmbedding for what is sliced along which dimension, as Parameter.split_dim says.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from meminspect.architectures.model import Parameter
from meminspect.errors import UsageError
from meminspect.synthesis.plan import Layout, Plan, PlannedFile, sliced, whole
from meminspect.synthesis.torch_zip import write_state_dict

if TYPE_CHECKING:
    from meminspect.architectures.model import Architecture
    from meminspect.synthesis.plan import PlannedTensor, SynthesisSpec

__all__ = ["LAYOUT"]

_LLAMA3_VOCABULARY = 100_000  # LLaMA 3's is 128,256, those before have 32,000


def _plan(spec: SynthesisSpec) -> Plan:
    architecture = _with_frequencies(spec.architecture, spec.dtype)
    _check_heads(architecture, spec.shards)
    tensors = tuple(whole(replace(spec, architecture=architecture)))
    dimensions = {parameter.name: parameter.split_dim for parameter in architecture.parameters}
    files = tuple(
        _file(rank, tuple(sliced(tensor, dimensions[tensor.name], rank, spec.shards) for tensor in tensors))
        for rank in range(spec.shards)
    )
    return Plan(files, {"params.json": spec.architecture.config})


def _file(rank: int, tensors: tuple[PlannedTensor, ...]) -> PlannedFile:
    root = f"consolidated.{rank:02}"
    write = functools.partial(write_state_dict, root=root, tensors=tensors, ordered=True)
    return PlannedFile(f"{root}.pth", tensors, write)


def _with_frequencies(architecture: Architecture, dtype: str) -> Architecture:
    """Meta's files before LLaMA 3 end with the rotary frequencies, which the model recomputes and ignores."""
    dim, heads, vocabulary = (architecture.config.get(name) for name in ("dim", "n_heads", "vocab_size"))
    has_them = any(parameter.name.endswith("rope.freqs") for parameter in architecture.parameters)
    if has_them or not (isinstance(dim, int) and isinstance(heads, int)):
        return architecture
    if isinstance(vocabulary, int) and vocabulary > _LLAMA3_VOCABULARY:
        return architecture
    # Eight bits cannot tell the frequencies apart.
    own = "float32" if dtype.startswith("float8") else None
    frequencies = Parameter("rope.freqs", (dim // heads // 2,), buffer=True, dtype=own)
    return replace(architecture, parameters=(*architecture.parameters, frequencies))


def _check_heads(architecture: Architecture, ranks: int) -> None:
    for name in ("n_heads", "n_kv_heads"):
        heads = architecture.config.get(name)
        if isinstance(heads, int) and heads % ranks:
            raise UsageError(
                f"{ranks:,} model-parallel files cannot share {heads:,} heads evenly ({name})",
                "ask for a number of shards that divides it",
            )


LAYOUT = Layout(
    id="meta",
    summary="params.json and consolidated.NN.pth; shards are model-parallel slices",
    namings={"llama": ("meta",)},
    plan=_plan,
)
