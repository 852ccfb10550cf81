"""Checkpoints by their headers alone: one reader for each layout, standard library only, hostile input expected."""

from __future__ import annotations

from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.checkpoint.registry import LAYOUTS, read_checkpoint

__all__ = ["LAYOUTS", "Checkpoint", "CheckpointFile", "Layout", "Storage", "StoredTensor", "read_checkpoint"]
