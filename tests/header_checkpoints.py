"""Checkpoints that are nowhere but in memory: headers of any size, for tests of theories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.dtypes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.architectures import Architecture

__all__ = ["Header", "checkpoint_of", "headers_of"]

Header = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape."""


def checkpoint_of(shards: Sequence[Sequence[Header]], layout: str) -> Checkpoint:
    """A checkpoint of a file for each of the shards, every tensor alone in its storage."""
    tensors, files = [], []
    for file, headers in enumerate(shards):
        end = 0
        for name, dtype, shape in headers:
            tensor = StoredTensor(name, dtype, shape, Storage(file, name, end, 0))
            nbytes = bytes_of(dtype, tensor.elements)
            tensors.append(StoredTensor(name, dtype, shape, Storage(file, name, end, nbytes)))
            end += nbytes
        files.append(CheckpointFile(f"{file}", Path(f"/nowhere/{file}"), end))
    return Checkpoint(Path("/nowhere"), layout, tuple(files), tuple(tensors))


def headers_of(architecture: Architecture, dtype: str) -> list[Header]:
    """What a model's state dict holds when all of it has one dtype."""
    return [(parameter.name, parameter.dtype or dtype, parameter.shape) for parameter in architecture.parameters]
