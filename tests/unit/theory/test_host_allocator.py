from __future__ import annotations

from meminspect.capture.records import Operation, Pool
from meminspect.theory.evaluation import evaluate
from meminspect.theory.host_allocator import PinnedAllocator
from meminspect.theory.ledger import BillLine, Item, Step

MIB = 1 << 20


def test_given_requests_when_allocated_then_each_takes_the_next_power_of_two() -> None:
    allocator = PinnedAllocator()

    for nbytes in (3 * MIB, 4 * MIB, 4 * MIB + 1, 1, 0):
        allocator.allocate(nbytes)

    assert allocator.reserved_bytes == (4 + 4 + 8) * MIB + 1


def test_given_a_freed_block_when_one_of_its_size_is_asked_for_then_it_is_taken_again() -> None:
    allocator = PinnedAllocator()

    for nbytes in (3 * MIB, 4 * MIB, 2 * MIB):
        allocator.allocate(nbytes)
        allocator.free(nbytes)

    assert allocator.reserved_bytes == (4 + 2) * MIB


def test_given_tensors_that_pass_through_pinned_memory_when_evaluated_then_what_is_kept_is_a_line_of_the_bill() -> None:
    steps = [
        Step("read", operation, Pool.PINNED, Item.STAGING, name, nbytes)
        for name, nbytes in (("a", 2 * MIB), ("b", 3 * MIB), ("c", 3 * MIB))
        for operation in (Operation.MATERIALISE, Operation.RELEASE)
    ]

    theory = evaluate(steps, floor_bytes=0)
    grouped = evaluate(steps[:4], 0, {"b": 2})

    assert theory.peak.pinned_bytes == theory.steady.pinned_bytes == theory.peak_rss_bytes == 6 * MIB
    assert set(theory.bill) == {BillLine(Item.RETAINED, "pinned", 3 * MIB), BillLine(Item.STAGING, "pinned", 3 * MIB)}
    assert grouped.peak == theory.peak
