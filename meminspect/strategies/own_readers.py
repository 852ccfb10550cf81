"""Layouts that only their own library reads: which strategies can use it, and why the others cannot."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from meminspect.strategies.task import LoadTask

__all__ = ["DCP", "GGUF", "why_no_library", "why_not_read"]

DCP: Final = "dcp"
GGUF: Final = "gguf"

_WHY_NOT: Final = {
    DCP: "torch.distributed.checkpoint copies chunk by chunk into tensors that exist: naive and meta-assign load it",
    GGUF: "the gguf package maps the file and reads no part of it: stream, mmap-assign, sharded and naive load it",
}


def why_not_read(task: LoadTask, known: Collection[str]) -> str | None:
    """In one sentence why a strategy cannot read the task's files; None when it can.

    Args:
        task: what to load.
        known: the layouts of this module that the strategy has a recipe for.
    """
    layout = task.checkpoint.layout
    return None if layout in known else _WHY_NOT.get(layout)


def why_no_library(task: LoadTask, recipe: Callable[[LoadTask], str]) -> str | None:
    """In one sentence which library a recipe lacks that reads the task's files; None when it needs none, or has it."""
    if task.checkpoint.layout != GGUF or "import gguf" not in recipe(task):
        return None
    theirs = task.options.interpreter
    absent = importlib.util.find_spec("gguf") is None if theirs.python is None else theirs.lacks("gguf") is not None
    return "the gguf package, which reads such files, is not installed: pip install gguf" if absent else None
