"""The allocator of page-locked host memory: what torch takes from the driver for it, and keeps.

Written after aten/src/ATen/core/CachingHostAllocator.h of PyTorch 2.13, with the default settings: a request
is rounded up to a power of two, a freed block waits for the next request of its size, and none goes back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from meminspect.capture.records import Operation

if TYPE_CHECKING:
    from meminspect.theory.ledger import Step

__all__ = ["PinnedAllocator"]


class PinnedAllocator:
    """One process's, from its first request on; a block is free again as soon as it is freed.

    Attributes:
        reserved_bytes: what is page-locked; it never shrinks.
    """

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self._free: Counter[int] = Counter()  # by size

    def allocate(self, nbytes: int) -> None:
        """Take a block for a request of `nbytes`; an empty one takes nothing."""
        size = _block_bytes(nbytes)
        if self._free[size]:
            self._free[size] -= 1
        else:
            self.reserved_bytes += size

    def free(self, nbytes: int) -> None:
        """Give back the block of a request of `nbytes`."""
        self._free[_block_bytes(nbytes)] += 1

    def apply(self, step: Step) -> None:
        """Do what a ledger's step does in this pool."""
        if step.operation is Operation.RELEASE:
            self.free(step.nbytes)
        elif step.delta_bytes > 0:
            self.allocate(step.nbytes)


def _block_bytes(nbytes: int) -> int:
    return 1 << (nbytes - 1).bit_length() if nbytes else 0
