"""Memory for tensors: private and anonymous, so that it is the process's own, and gone with the last tensor in it.

Every first touch of a 4 KiB page costs a page fault, which is most of what a load from a warm page cache takes. So
blocks begin where a huge page may, and the kernel is asked for huge pages wherever a block fills them.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HUGE_BYTES", "Block"]

HUGE_BYTES: Final = 2 << 20
"""A huge page on x86-64 and on arm64 with pages of 4 KiB."""

_MADV_HUGEPAGE: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux


class Block:
    """A stretch of zeroed memory that takes none until it is written to.

    Args:
        nbytes: its length.

    Raises:
        MemoryError: the system does not promise so much.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        slack = HUGE_BYTES if nbytes >= HUGE_BYTES else 0  # address space only: it is never touched
        try:
            self._map = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no {nbytes:,} bytes of memory: {error.strerror}") from error
        address = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
        self._start = -address % HUGE_BYTES if slack else 0
        # Not the last, partly used one: a huge page there would take memory that no tensor has.
        whole = nbytes // HUGE_BYTES * HUGE_BYTES
        if whole and _MADV_HUGEPAGE is not None:
            self._advise(self._map.madvise, whole)

    def _advise(self, madvise: Callable[[int, int, int], None], nbytes: int) -> None:
        try:
            madvise(_MADV_HUGEPAGE or 0, self._start, nbytes)
        except OSError:  # a kernel without huge pages: it is slower, and right
            return

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Its bytes, to be written to."""
        return memoryview(self._map)[self._start + offset : self._start + offset + nbytes]

    def tensor(self, dtype: torch.dtype, offset: int, elements: int) -> torch.Tensor:
        """A one-dimensional tensor on its bytes, with a storage of its own that keeps the block."""
        if not elements:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=elements, offset=self._start + offset)
