"""Memory for tensors: private and anonymous, so that it is the process's own, and gone with the tensors in it.

Every first touch of a 4 KiB page costs a page fault, which is most of what a load from a warm page cache takes. So the
kernel is asked for huge pages, and blocks lie side by side in large regions: in a region of its own, a block of 9 MiB
would have a tenth of its bytes in the small pages at its end.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import weakref
from typing import Final

import torch

from meminspect.staging import SECTOR_BYTES

__all__ = ["Block", "Memory"]

_HUGE_BYTES: Final = 2 << 20  # a huge page on x86-64, and on arm64 with pages of 4 KiB
_REGION_BYTES: Final = 1 << 30
_MADV_HUGEPAGE: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux
_GIVES_BACK: Final = sys.platform == "linux"  # MADV_DONTNEED is a mere hint elsewhere


class Memory:
    """Zeroed memory for blocks; it takes none until it is written to.

    Args:
        nbytes: of all the blocks that will be asked for.
        blocks: how many they are.
    """

    def __init__(self, nbytes: int, blocks: int = 1) -> None:
        self._promised = nbytes + blocks * SECTOR_BYTES
        self._left = 0  # of the region that blocks are cut from now, from front to back
        self._next = 0

    def block(self, nbytes: int, residue: int = 0) -> Block:
        """Memory of so many bytes.

        Args:
            nbytes: its length.
            residue: how far behind a multiple of SECTOR_BYTES it is to begin.

        Raises:
            MemoryError: the system does not promise so much.
        """
        needed = nbytes + SECTOR_BYTES
        if self._left < needed:
            self._open(max(needed, min(self._promised, _REGION_BYTES)) if _GIVES_BACK else needed)
        self._promised -= needed
        start = self._next + (residue - self._address - self._next) % SECTOR_BYTES
        end = start + nbytes
        self._left -= end - self._next
        self._next = end
        view = memoryview(self._region)[start:end]
        if _GIVES_BACK:
            weakref.finalize(view, _give_back, self._region, start, end).atexit = False
        return Block(view)

    def _open(self, nbytes: int) -> None:
        """Begin the next region."""
        slack = _HUGE_BYTES if nbytes >= _HUGE_BYTES else 0  # address space only: it is never touched
        try:
            self._region = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no {nbytes:,} bytes of memory: {error.strerror}") from error
        self._address = torch.frombuffer(self._region, dtype=torch.uint8).data_ptr()
        self._left, self._next = nbytes, -self._address % _HUGE_BYTES if slack else 0
        # Not the last, partly used one: a huge page there would take memory that no tensor has.
        whole = nbytes // _HUGE_BYTES * _HUGE_BYTES
        if whole and _MADV_HUGEPAGE is not None:
            with contextlib.suppress(OSError):  # a kernel without huge pages: it is slower, and right
                self._region.madvise(_MADV_HUGEPAGE, self._next, whole)


def _give_back(region: mmap.mmap, start: int, end: int) -> None:
    """Nobody has a block any more: the pages that are wholly in it are free again, whatever else the region holds."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        region.madvise(mmap.MADV_DONTNEED, first, length)


class Block:
    """A stretch of memory, which lives as long as any tensor in it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Its bytes, to be written to while the block or a tensor in it lives."""
        return self._view[offset : offset + nbytes]

    def tensor(self, dtype: torch.dtype, offset: int, elements: int) -> torch.Tensor:
        """A one-dimensional tensor on its bytes, with a storage of its own that keeps the block."""
        if not elements:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self._view, dtype=dtype, count=elements, offset=offset)
