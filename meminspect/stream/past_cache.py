"""Which way a file comes from its disk faster, through the page cache or past it: found out by reading, not by taste.

Through the page cache everything is copied once more, and pages have to be found for it; past it (O_DIRECT) a disk
writes to its final place, and a network file system, a RAID or a busy machine may all the same be slower. Nothing of
what is read past it is cached afterwards.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Final

from meminspect.page_cache import cached_bytes
from meminspect.staging import SECTOR_BYTES

__all__ = ["Ways", "is_cold", "open_past_cache", "sectors"]

_TRIALS: Final = 4  # reads each way before one is chosen
_PAGE_BYTES: Final = 4096  # what a file's offsets are aligned to: sectors of modern disks
_LEAST_BYTES: Final = 256 << 10  # less is not worth a look
_DIRECT: Final[int | None] = getattr(os, "O_DIRECT", None)  # not on macOS


class Ways:
    """Reads go either way by turns, and then the faster. Of many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = {True: 0, False: 0}  # by whether they go past the cache
        self._done: dict[bool, list[float]] = {True: [], False: []}  # bytes in a second
        self._chosen: bool | None = None

    def next_is_past(self) -> bool:
        """Whether the next read of what is not cached is to go past the cache."""
        with self._lock:
            if self._chosen is not None:
                return self._chosen
            past = self._begun[True] <= self._begun[False]
            self._begun[past] += 1
            return past

    def took(self, past: bool, nbytes: int, seconds: float) -> None:
        """What a read has taken."""
        with self._lock:
            self._done[past].append(nbytes / max(seconds, 1e-9))
            if self._chosen is None and min(map(len, self._done.values())) >= _TRIALS:
                self._chosen = sum(self._done[True]) > sum(self._done[False])

    def refuse(self) -> None:
        """The file system has a cache, and no way past it."""
        with self._lock:
            self._chosen = False


def is_cold(descriptor: int, offset: int, nbytes: int) -> bool:
    """Whether most of a stretch is known not to be in the page cache."""
    if nbytes < _LEAST_BYTES:
        return False
    cached = cached_bytes(descriptor, offset, nbytes)
    return cached is not None and cached < nbytes // 2


def open_past_cache(path: str | os.PathLike[str]) -> int | None:
    """A descriptor of a file that is read past the page cache; None where that cannot be had."""
    if _DIRECT is None:
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)
    except OSError:
        return None


def sectors(offset: int, target: memoryview) -> tuple[int, int] | None:
    """From where to where in a file whole sectors can be read to where they belong; None: the memory lies otherwise.

    Args:
        offset: in the file, of the first byte of the target.
        target: what is filled.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(target))
    if (address - offset) % SECTOR_BYTES:
        return None
    first, last = -(-offset // _PAGE_BYTES) * _PAGE_BYTES, (offset + len(target)) // _PAGE_BYTES * _PAGE_BYTES
    return (first, last) if first < last else None
