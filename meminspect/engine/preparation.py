"""Brings the page cache into the state that a run asks for: nothing of the checkpoint in it, or all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from meminspect import page_cache
from meminspect.text import listed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.checkpoint import Checkpoint

__all__ = ["PREPARING", "CacheState", "prepare_cache"]

CacheState: TypeAlias = Literal["cold", "warm"]

PREPARING: Final[dict[CacheState, str]] = {
    "cold": "dropping the checkpoint from the page cache",
    "warm": "reading the checkpoint into the page cache",
}
"""What is being done, for whoever waits for it."""

_FAILED: Final[dict[CacheState, str]] = {
    "cold": "could not be dropped from the page cache, or nobody tells",
    "warm": "could not be read into the page cache",
}


def prepare_cache(state: CacheState, checkpoint: Checkpoint, stop: Callable[[], bool]) -> str:
    """Evict or read every file of a checkpoint.

    Args:
        state: what is wanted.
        checkpoint: whose files.
        stop: asked before every file and every chunk of one whether to leave the rest.

    Returns:
        In one sentence what has not succeeded; empty when all has.
    """
    failed = []
    for file in checkpoint.files:
        if stop():
            break
        if not _prepared(state, file.path, stop):
            failed.append(file.name)
    return f"{listed(failed)} {_FAILED[state]}" if failed else ""


def _prepared(state: CacheState, path: Path, stop: Callable[[], bool]) -> bool:
    try:
        if state == "cold":
            return page_cache.evict(path)
        page_cache.warm(path, stop)
    except OSError:  # the worker meets it too, and says more
        return False
    return True
