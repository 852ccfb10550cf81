"""What the fast loader reads with: its theory, and whoever offers its options, has to know that without torch."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["CHUNK_BYTES", "READ_AHEADS", "SECTOR_BYTES", "default_threads", "groups_at_once", "scratch_bytes"]

CHUNK_BYTES: Final = 8 << 20
"""The most that is read at once, and so what one thread's staging takes; whole huge pages."""

SECTOR_BYTES: Final = 512
"""What is read past the page cache lies in memory as it does in the sectors of the disk: staging has one to spare."""

READ_AHEADS: Final = ("populate", "thread", "willneed")
"""How the pages of a mapped checkpoint can be read ahead: see `meminspect.stream.read_ahead`."""

_ELEMENTS_AT_ONCE: Final = 1 << 18  # are quantised: a dozen calls of torch, of which each gives up Python's lock
_SCRATCH_BYTES: Final = {"int8": 5, "nf4": 14}  # for each of them

_MOST_THREADS: Final = 8  # copying out of the page cache is bound by memory from there on


def default_threads() -> int:
    """As many as there are processors for us, within reason."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return min(_MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def groups_at_once(group: int) -> int:
    """How many groups of elements that share a scale a thread quantises at a time."""
    return max(1, _ELEMENTS_AT_ONCE // group)


def scratch_bytes(kind: str, group: int) -> int:
    """What a thread needs to quantise in, beside the bytes that it has read; whole sectors.

    Args:
        kind: "int8" or "nf4".
        group: how many elements share a scale.
    """
    nbytes = groups_at_once(group) * group * _SCRATCH_BYTES[kind]
    return -(-nbytes // SECTOR_BYTES) * SECTOR_BYTES
