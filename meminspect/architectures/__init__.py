"""Architectures: parameters by name and shape, without torch; which one a checkpoint is of; the registry."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from meminspect.architectures import gpt2, litgpt, llama, skeleton
from meminspect.architectures.family import Detection, Family, Headers, mismatch
from meminspect.architectures.model import Architecture, Parameter
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.architectures.family import TensorHeader

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Detection",
    "Family",
    "Headers",
    "Parameter",
    "detect",
    "transformers_class",
]

_CLASS: Final = re.compile(r"[A-Z]\w{0,99}", re.ASCII)

# One line per architecture; the skeleton is what remains when none of them fits.
ARCHITECTURES: Mapping[str, Family] = MappingProxyType(
    {family.id: family for family in (llama.FAMILY, gpt2.FAMILY, litgpt.FAMILY)},
)

# https://github.com/Lightning-AI/lit-llama, lit_llama/model.py: LitGPT's predecessor, with no config beside a file.
_LIT_LLAMA: Final = {
    "lm_head.weight", "transformer.wte.weight", "transformer.h.0.rms_1.scale", "transformer.h.0.mlp.c_fc1.weight",
}  # fmt: skip


def detect(
    config: Mapping[str, object] | None,
    tensors: Mapping[str, TensorHeader],
    tied: Sequence[Sequence[str]] = (),
    parallel_files: int = 1,
) -> Detection:
    """The architecture whose tensors are exactly the checkpoint's; else a skeleton, with a note that says why.

    Args:
        config: params.json or config.json, if there is one.
        tensors: shape and dtype by name, in the checkpoint's order; of one slice where the files are slices.
        tied: groups of names that share one memory.
        parallel_files: how many files the model is sliced into.

    Raises:
        CheckpointError: a field of the config is absurd, or slices are of no known architecture.
    """
    headers = Headers(config, tensors, tied, parallel_files)
    note = "its config and names are of no known architecture"
    if tensors.keys() >= _LIT_LLAMA:
        note = "it has the names of Lit-LLaMA, which no architecture here has"
    for family in ARCHITECTURES.values():
        found = family.recognise(headers)
        if isinstance(found, Architecture):
            difference = mismatch(found, headers)
            if difference is None:
                return Detection(found, _assumption(found, headers))
            found = difference
        if found is not None:
            note = f"it looks like {family.id}, but {found}"
            break
    name = transformers_class(config)
    of_transformers = f", as transformers:{name}" if name else ""
    named = f"{note}: loading into a skeleton, unless --model names its class{of_transformers}"
    return Detection(_skeleton(headers, note), named)


def transformers_class(config: Mapping[str, object] | None) -> str:
    """The class that a config.json names as its model's, as "LlamaForCausalLM"; empty where it names none.

    The name is a checkpoint's, and recipes that have it are executed: what is no class name is not taken over.
    """
    fields = config or {}
    named = fields.get("architectures")
    name = named[0] if "model_type" in fields and isinstance(named, list) and named else ""
    return name if isinstance(name, str) and _CLASS.fullmatch(name) else ""


def _skeleton(headers: Headers, note: str) -> Architecture:
    try:
        return skeleton.architecture(headers)
    except CheckpointError as error:
        raise CheckpointError(f"{error.message} ({note})", error.hint) from error


def _assumption(architecture: Architecture, headers: Headers) -> str:
    if headers.config and headers.config.keys() <= architecture.config.keys():
        return ""
    return f"no config: taken for {architecture.id} by its names and shapes, which leave the number of heads open"
