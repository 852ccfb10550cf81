"""Layout `torch-sharded`: several files of torch.save and the index that says which tensor lies where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.index import indices, read_indexed
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.torch_file import read_torch_file

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["LAYOUT"]

_INDEX = "pytorch_model.bin.index.json"


def _claims(path: Path) -> tuple[str, ...]:
    return indices(path, _INDEX)


def _read(path: Path) -> Checkpoint:
    return read_indexed(path, LAYOUT.id, _INDEX, read_torch_file)


LAYOUT = Layout("torch-sharded", "several files of torch.save with a *.bin.index.json", _claims, _read)
