"""Layouts that only their own library reads: which strategies can use it, and why the others cannot."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from meminspect.strategies.task import LoadTask

__all__ = ["DCP", "GGUF", "why_not_read"]

DCP: Final = "dcp"
GGUF: Final = "gguf"

_WHY_NOT: Final = {
    DCP: "torch.distributed.checkpoint copies chunk by chunk into tensors that exist: naive and meta-assign load it",
    GGUF: "the gguf package maps the file and reads no part of it: mmap-assign, sharded and naive load it",
}


def why_not_read(task: LoadTask, known: Collection[str]) -> str | None:
    """In one sentence why a strategy cannot read the task's files; None when it can.

    Args:
        task: what to load.
        known: the layouts of this module that the strategy has a recipe for.
    """
    layout = task.checkpoint.layout
    if layout not in _WHY_NOT:
        return None
    if layout not in known:
        return _WHY_NOT[layout]
    theirs = task.options.interpreter
    absent = importlib.util.find_spec("gguf") is None if theirs.python is None else theirs.lacks("gguf") is not None
    if layout == GGUF and absent:
        return "the gguf package, which reads such files, is not installed: pip install gguf"
    return None
