"""Layout `safetensors-sharded`: several safetensors files and the index that says which tensor lies where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.index import indices, read_indexed
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.safetensors_header import read_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["LAYOUT"]

_INDEX = "model.safetensors.index.json"


def _claims(path: Path) -> tuple[str, ...]:
    return indices(path, _INDEX)


def _read(path: Path) -> Checkpoint:
    return read_indexed(path, LAYOUT.id, _INDEX, read_safetensors)


LAYOUT = Layout("safetensors-sharded", "several safetensors files with a *.safetensors.index.json", _claims, _read)
