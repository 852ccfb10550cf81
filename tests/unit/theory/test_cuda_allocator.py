"""The model of the CUDA caching allocator, by hand-worked cases and by what must always hold.

torch's CPU build has no such allocator, so nothing here is held against hardware but the one test marked `gpu`.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meminspect.theory.cuda_allocator import CachingAllocator, DeviceBlock

MIB = 1 << 20


def after(*requests: int) -> tuple[int, int]:
    """Allocated and reserved after some requests."""
    allocator = CachingAllocator()
    for nbytes in requests:
        allocator.allocate(nbytes)
    return allocator.allocated_bytes, allocator.reserved_bytes


@pytest.mark.parametrize(
    ("requests", "allocated", "reserved"),
    [
        ([0], 0, 0),
        ([1], 512, 2 * MIB),
        ([512], 512, 2 * MIB),
        ([513], 1024, 2 * MIB),
        ([MIB], MIB, 2 * MIB),  # the largest of the small pool
        ([MIB, MIB], 2 * MIB, 2 * MIB),
        ([MIB, MIB, 1], 2 * MIB + 512, 4 * MIB),
        ([MIB + 1], MIB + 512, 20 * MIB),  # the smallest of the large pool
        ([10 * MIB - 512], 10 * MIB - 512, 20 * MIB),
        ([10 * MIB], 10 * MIB, 10 * MIB),  # the smallest with a segment of its own
        ([10 * MIB + 1], 10 * MIB + 512, 12 * MIB),  # the rest of the segment is split off
        ([11 * MIB], 12 * MIB, 12 * MIB),  # 1 MiB would remain, which is too little to be split off
        ([40_960_000], 40 * MIB, 40 * MIB),  # a feed-forward weight of GPT-2 XL, of which the driver gives 40 MiB
        ([9 * MIB, 9 * MIB], 18 * MIB, 20 * MIB),
        ([9 * MIB, 9 * MIB, 2 * MIB], 20 * MIB, 20 * MIB),
        ([9 * MIB, 10 * MIB], 20 * MIB, 20 * MIB),  # again: it counts as allocated
        ([9 * MIB, 10 * MIB - 512], 19 * MIB - 512, 20 * MIB),  # more than 1 MiB remains
        ([9 * MIB, 9 * MIB, 3 * MIB], 21 * MIB, 40 * MIB),
    ],
)
def test_what_requests_come_to(requests: list[int], allocated: int, reserved: int) -> None:
    assert after(*requests) == (allocated, reserved)


def test_what_is_freed_is_used_again_before_more_is_taken_from_the_driver() -> None:
    allocator = CachingAllocator()
    first = allocator.allocate(30 * MIB)
    allocator.free(first)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (0, 30 * MIB)

    allocator.allocate(12 * MIB)
    allocator.allocate(18 * MIB)

    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (30 * MIB, 30 * MIB)


def test_the_smallest_block_that_suffices_is_taken_and_of_equals_the_one_with_the_lowest_address() -> None:
    # given free blocks of 50, 30 and 30 MiB, each a segment
    allocator = CachingAllocator()
    blocks = [taken(allocator, nbytes) for nbytes in (50 * MIB, 30 * MIB, 30 * MIB)]
    for block in reversed(blocks):
        allocator.free(block)

    chosen = taken(allocator, 20 * MIB)

    assert chosen.address == blocks[1].address


def test_a_small_request_never_takes_from_the_large_pool_nor_the_other_way_round() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(20 * MIB))
    allocator.allocate(MIB)
    assert allocator.reserved_bytes == 22 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.reserved_bytes == 22 * MIB


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_neighbours_merge_in_whatever_order_they_are_freed(order: tuple[int, ...]) -> None:
    # given a segment of 20 MiB in three blocks and a rest
    allocator = CachingAllocator()
    blocks = [taken(allocator, nbytes) for nbytes in (5 * MIB, 6 * MIB, 7 * MIB)]
    for index in order:
        allocator.free(blocks[index])

    assert taken(allocator, 20 * MIB).nbytes == 20 * MIB
    assert allocator.reserved_bytes == 20 * MIB


def test_blocks_of_two_segments_do_not_merge() -> None:
    allocator = CachingAllocator()
    for block in [taken(allocator, 20 * MIB), taken(allocator, 20 * MIB)]:
        allocator.free(block)
    allocator.allocate(40 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def taken(allocator: CachingAllocator, nbytes: int) -> DeviceBlock:
    block = allocator.allocate(nbytes)
    assert block is not None
    return block


# Around every threshold of the algorithm, and anything in between.
SIZES = st.one_of(
    st.sampled_from([0, 1, 512, 513, MIB - 512, MIB, MIB + 1, 2 * MIB, 10 * MIB - 1, 10 * MIB, 11 * MIB, 20 * MIB]),
    st.integers(0, 64 * MIB),
)
# None: free one of the live blocks, chosen by the second number.
USES = st.lists(st.tuples(st.none() | SIZES, st.integers(0, 1 << 16)), max_size=60)


@given(USES)
def test_the_books_always_balance(uses: list[tuple[int | None, int]]) -> None:
    allocator = CachingAllocator()
    live: list[DeviceBlock] = []
    highest = 0
    for nbytes, choice in uses:
        if nbytes is not None:
            block = allocator.allocate(nbytes)
            assert (block is None) == (nbytes == 0)
            if block is not None:
                assert nbytes <= block.nbytes <= nbytes + MIB + 511
                live.append(block)
        elif live:
            allocator.free(live.pop(choice % len(live)))
        # what is live is what counts, no two blocks overlap, and the reservation holds them and never shrinks
        ends = sorted((block.address, block.address + block.nbytes) for block in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
        assert allocator.allocated_bytes == sum(block.nbytes for block in live)
        assert allocator.allocated_bytes <= allocator.reserved_bytes
        assert highest <= allocator.reserved_bytes
        highest = allocator.reserved_bytes

    for block in live:
        allocator.free(block)
    assert allocator.allocated_bytes == 0


@given(st.lists(SIZES, max_size=40))
def test_the_same_again_after_all_is_freed_takes_nothing_more_from_the_driver(sizes: list[int]) -> None:
    """Largest first, so that no smaller request has cut what a larger one needs."""
    allocator = CachingAllocator()
    sizes.sort(reverse=True)
    for block in [allocator.allocate(nbytes) for nbytes in sizes]:
        allocator.free(block)
    reserved = allocator.reserved_bytes

    for nbytes in sizes:
        allocator.allocate(nbytes)

    assert allocator.reserved_bytes == reserved


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_counts_the_same_on_a_device() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    assert before == (0, 0), "something else in this process is on the device"
    allocator = CachingAllocator()
    live: list[tuple[torch.Tensor, DeviceBlock | None]] = []
    sizes = [1, 513, MIB, MIB + 1, 40_960_000, 9 * MIB, 10 * MIB, 11 * MIB, 3 * MIB, 500, 700_000, 64 * MIB]
    for step, nbytes in enumerate(sizes * 3):
        live.append((torch.empty(nbytes, dtype=torch.uint8, device="cuda"), allocator.allocate(nbytes)))
        if step % 3 == 2:
            tensor, block = live.pop(step % len(live))
            del tensor
            allocator.free(block)
        assert torch.cuda.memory_allocated() == allocator.allocated_bytes
        assert torch.cuda.memory_reserved() == allocator.reserved_bytes
