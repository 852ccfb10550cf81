"""Ledgers with steps on the device: the caching allocator's figures beside the host's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meminspect.capture.records import Operation, Pool
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import BillLine, Item, Step

MIB = 1 << 20


def taken(tensor: str, nbytes: int, item: str = Item.FLOOR, phase: str = "build", pool: Pool = Pool.VRAM) -> Step:
    return Step(phase, Operation.MATERIALISE, pool, item, tensor, nbytes)


def given_back(step: Step) -> Step:
    return step._replace(operation=Operation.RELEASE)


def test_what_is_allocated_and_reserved_is_the_allocators_and_its_rounding_a_line_of_the_bill() -> None:
    found = evaluate([taken("weight", 11 * MIB), taken("norm", 100)], 11 * MIB + 100)

    # 11 MiB get a segment of 12, of which 1 MiB is too little to be split off
    assert found.peak.vram_allocated_bytes == found.steady.vram_allocated_bytes == 12 * MIB + 512
    assert found.peak.vram_reserved_bytes == found.steady.vram_reserved_bytes == 14 * MIB
    assert found.bill == (
        BillLine(Item.FLOOR, "vram", 11 * MIB + 100),
        BillLine(Item.ALLOCATOR, "vram", MIB + 412),
    )
    assert (found.peak_rss_bytes, found.peak.heap_bytes) == (0, 0)


def test_what_is_given_back_stays_reserved_and_is_used_again() -> None:
    weight, other = taken("weight", 20 * MIB), taken("other", 20 * MIB)
    found = evaluate([weight, given_back(weight), other], 0)

    assert found.peak.vram_allocated_bytes == 20 * MIB
    assert found.peak.vram_reserved_bytes == 20 * MIB


def test_the_device_peaks_at_a_moment_of_its_own() -> None:
    on_host = taken("weight", 30 * MIB, Item.DUPLICATE, pool=Pool.HEAP)
    on_device = taken("weight", 20 * MIB)
    staging = taken("weight", 40 * MIB, Item.STAGING)
    found = evaluate([on_host, given_back(on_host), on_device, staging, given_back(staging)], 20 * MIB)

    assert found.bill == (
        BillLine(Item.DUPLICATE, "heap", 30 * MIB),
        BillLine(Item.FLOOR, "vram", 20 * MIB),
        BillLine(Item.STAGING, "vram", 40 * MIB),
    )
    assert found.peak.vram_allocated_bytes == 60 * MIB
    assert (found.steady.vram_allocated_bytes, found.steady.vram_reserved_bytes) == (20 * MIB, 60 * MIB)


def test_floor_and_upcast_of_one_tensor_are_one_allocation() -> None:
    floor, upcast = taken("weight", 15 * MIB), taken("weight", 15 * MIB, Item.UPCAST)
    together = evaluate([floor, upcast], 0)
    apart = evaluate([floor, taken("other", 15 * MIB, Item.UPCAST)], 0)

    assert together.peak.vram_allocated_bytes == 30 * MIB
    assert apart.peak.vram_allocated_bytes == 32 * MIB
    # and it goes with the last of its parts
    gone = evaluate([floor, upcast, given_back(floor), given_back(upcast), taken("third", 30 * MIB)], 0)
    assert gone.peak.vram_reserved_bytes == 30 * MIB


def test_of_two_of_a_name_the_older_goes_first() -> None:
    """A model that is cast on the device: the new tensor comes before the old one goes."""
    old, new = taken("weight", 40 * MIB), taken("weight", 20 * MIB, phase="cast")
    found = evaluate([old, new, given_back(new)._replace(nbytes=40 * MIB)], 20 * MIB)

    assert found.peak.vram_allocated_bytes == 60 * MIB
    assert found.steady.vram_allocated_bytes == 20 * MIB


@given(st.lists(st.tuples(st.integers(0, 40 * MIB), st.booleans()), max_size=30))
def test_the_devices_bill_sums_to_what_was_allocated_at_most(requests: list[tuple[int, bool]]) -> None:
    steps: list[Step] = []
    for index, (nbytes, goes) in enumerate(requests):
        step = taken(str(index), nbytes, (Item.FLOOR, Item.STAGING)[index % 2])
        steps += [step, given_back(step)] if goes else [step]
    found = evaluate(steps, 0)

    assert sum(line.nbytes for line in found.bill) == (found.peak.vram_allocated_bytes or 0)
    assert (found.peak.vram_allocated_bytes or 0) <= (found.peak.vram_reserved_bytes or 0)
    assert all(line.nbytes > 0 for line in found.bill)
