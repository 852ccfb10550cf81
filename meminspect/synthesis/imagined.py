"""A checkpoint that nobody has written: the headers that one would have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.synthesis.choosing import architecture_for
from meminspect.synthesis.layouts import LAYOUTS
from meminspect.synthesis.plan import SynthesisSpec

__all__ = ["imagined_checkpoint"]

_PARAMETERS: Final = 6_738_415_616  # LLaMA 7B
_SHARDS: Final = 3


def imagined_checkpoint(*, per_tensor: bool = False) -> Checkpoint:
    """LLaMA 7B in float16: three shards of safetensors, or a file for each tensor."""
    layout = "per-tensor" if per_tensor else "safetensors"
    architecture = architecture_for("llama", layout, parameters=_PARAMETERS)
    folder = Path("llama-7B")
    spec = SynthesisSpec(folder, architecture, layout, "float16", 1 if per_tensor else _SHARDS, sparse=True)
    plan = LAYOUTS[layout].plan(spec)
    files, tensors = [], []
    for index, file in enumerate(plan.files):
        offset = 0
        for tensor in file.tensors:
            storage = Storage(index, tensor.name, offset, tensor.source.nbytes)
            tensors.append(StoredTensor(tensor.name, tensor.dtype, tensor.shape, storage))
            offset += storage.nbytes
        files.append(CheckpointFile(file.name, folder / file.name, offset))
    found = layout if per_tensor else "safetensors-sharded"
    return Checkpoint(folder, found, tuple(files), tuple(tensors), architecture.config)
