"""The CUDA caching allocator: what torch counts as allocated, and what it takes from the driver.

Written after c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h of PyTorch (1.0 to 2.13 agree), with the
default settings and one stream; c10/xpu/XPUCachingAllocator.cpp has the same sizes and rules:

- a request is rounded up to 512 bytes; up to 1 MiB it comes from the small pool, beyond that from the large one;
- the smallest free block that is large enough is taken, of equals the one with the lowest address;
- without one, a segment is taken from the driver: 2 MiB in the small pool; in the large one 20 MiB for requests under
  10 MiB, and the request rounded up to 2 MiB from there;
- a block is split only if at least 512 bytes (small pool) or more than 1 MiB (large pool) remain, else the whole of it
  counts as allocated;
- a freed block merges with its free neighbours in the segment; segments stay reserved.

What a lack of memory does (cached segments go back to the driver, and the request is tried again) is not modelled: a
plan says what a load needs where it has room. Of the addresses only the order within a segment is known; segments are
taken to rise in the order in which they were made.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

__all__ = ["CachingAllocator", "DeviceBlock"]

_ROUNDING: Final = 512  # kMinBlockSize
_SMALL_REQUEST: Final = 1 << 20  # kSmallSize
_SMALL_SEGMENT: Final = 2 << 20  # kSmallBuffer
_LARGE_SEGMENT: Final = 20 << 20  # large_segment_size, kLargeBuffer of old
_LEAST_OWN_SEGMENT: Final = 10 << 20  # kMinLargeAlloc
_SEGMENT_ROUNDING: Final = 2 << 20  # kRoundLarge


class DeviceBlock:
    """A run of bytes within a segment: what one request got, or a free remainder."""

    __slots__ = ("address", "after", "before", "nbytes", "pool", "taken")

    def __init__(self, address: int, nbytes: int, pool: _Pool) -> None:
        self.address = address
        self.nbytes = nbytes
        self.pool = pool
        self.taken = True
        self.before: DeviceBlock | None = None  # its neighbours in the segment
        self.after: DeviceBlock | None = None


class _Pool:
    """The free blocks of one pool, sorted by size, then by address."""

    def __init__(self, *, least_remainder: int) -> None:
        self.least_remainder = least_remainder  # what must remain for a block to be split
        self._order: list[tuple[int, int]] = []
        self._blocks: dict[int, DeviceBlock] = {}

    def put(self, block: DeviceBlock) -> None:
        block.taken = False
        insort(self._order, (block.nbytes, block.address))
        self._blocks[block.address] = block

    def drop(self, block: DeviceBlock) -> None:
        del self._order[bisect_left(self._order, (block.nbytes, block.address))]
        del self._blocks[block.address]

    def best_fit(self, nbytes: int) -> DeviceBlock | None:
        """Take the free block that suits best; None where no block is large enough."""
        index = bisect_left(self._order, (nbytes, 0))
        if index == len(self._order):
            return None
        block = self._blocks.pop(self._order.pop(index)[1])
        block.taken = True
        return block


class CachingAllocator:
    """One device's allocator, from its first request on.

    Attributes:
        allocated_bytes: torch.cuda.memory_allocated(), the blocks that are taken.
        reserved_bytes: torch.cuda.memory_reserved(), the segments; they never shrink.
    """

    def __init__(self) -> None:
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self._small = _Pool(least_remainder=_ROUNDING)
        self._large = _Pool(least_remainder=_SMALL_REQUEST + 1)

    def allocate(self, nbytes: int) -> DeviceBlock | None:
        """A block for a request of `nbytes`; None for an empty one, which takes nothing."""
        if not nbytes:
            return None
        size = -(-nbytes // _ROUNDING) * _ROUNDING
        pool = self._small if size <= _SMALL_REQUEST else self._large
        block = pool.best_fit(size) or self._new_segment(size, pool)
        if block.nbytes - size >= pool.least_remainder:
            pool.put(_split(block, size))
        self.allocated_bytes += block.nbytes
        return block

    def free(self, block: DeviceBlock | None) -> None:
        """Give back what `allocate` returned, once."""
        if block is None:
            return
        self.allocated_bytes -= block.nbytes
        for neighbour in (block.before, block.after):
            if neighbour is not None and not neighbour.taken:
                neighbour.pool.drop(neighbour)
                block = _merged(block, neighbour)
        block.pool.put(block)

    def _new_segment(self, size: int, pool: _Pool) -> DeviceBlock:
        if pool is self._small:
            nbytes = _SMALL_SEGMENT
        elif size < _LEAST_OWN_SEGMENT:
            nbytes = _LARGE_SEGMENT
        else:
            nbytes = -(-size // _SEGMENT_ROUNDING) * _SEGMENT_ROUNDING
        segment = DeviceBlock(self.reserved_bytes, nbytes, pool)
        self.reserved_bytes += nbytes
        return segment


def _split(block: DeviceBlock, size: int) -> DeviceBlock:
    """Cut a block down to `size`; what remains of it."""
    rest = DeviceBlock(block.address + size, block.nbytes - size, block.pool)
    rest.before, rest.after = block, block.after
    if rest.after is not None:
        rest.after.before = rest
    block.after = rest
    block.nbytes = size
    return rest


def _merged(block: DeviceBlock, neighbour: DeviceBlock) -> DeviceBlock:
    """Two neighbours as the one that lies first."""
    first, second = sorted((block, neighbour), key=lambda one: one.address)
    first.nbytes += second.nbytes
    first.after = second.after
    if first.after is not None:
        first.after.before = first
    return first
