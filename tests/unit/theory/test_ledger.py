from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.capture.records import Operation, Pool
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import BillLine, Item, Step, Theory, spelt_out

HOST_POOLS = (Pool.HEAP, Pool.FILE, Pool.PINNED)
ITEMS = (Item.FLOOR, Item.SHARD, Item.STAGING)


def step(operation: Operation, pool: Pool, nbytes: int, item: str = Item.FLOOR, phase: str = "read") -> Step:
    return Step(phase, operation, pool, item, "tensor", nbytes)


@st.composite
def ledgers(draw: st.DrawFn) -> list[Step]:
    """Random streams in which what is released was there before."""
    steps: list[Step] = []
    live: list[Step] = []
    for _ in range(draw(st.integers(0, 40))):
        if live and draw(st.booleans()):
            gone = live.pop(draw(st.integers(0, len(live) - 1)))
            steps.append(gone._replace(operation=Operation.RELEASE))
            continue
        operation = draw(st.sampled_from([Operation.MATERIALISE, Operation.TOUCH, Operation.COPY, Operation.ASSIGN]))
        pool = (
            Pool.NONE if operation in (Operation.COPY, Operation.ASSIGN) else draw(st.sampled_from(HOST_POOLS[:2]))
        )  # page-locked memory is the work of an allocator
        added = step(
            operation, pool, draw(st.integers(0, 5)), draw(st.sampled_from(ITEMS)),
            draw(st.sampled_from(["build", "read", "copy", "touch"])),
        )  # fmt: skip
        steps.append(added)
        if added.delta_bytes:
            live.append(added)
    return steps


def grows_by(one: Step) -> int:
    if one.operation is Operation.RELEASE:
        return -one.nbytes
    if one.operation is Operation.TOUCH:
        return one.nbytes
    return one.nbytes if one.operation is Operation.MATERIALISE and one.pool is not Pool.FILE else 0


def states(steps: list[Step]) -> list[Counter[tuple[str, Pool]]]:
    """What is live before the first step and after every one, by item and pool."""
    live: Counter[tuple[str, Pool]] = Counter()
    every = [live.copy()]
    for one in steps:
        live[one.item, one.pool] += grows_by(one)
        every.append(live.copy())
    return every


def in_pool(state: Counter[tuple[str, Pool]], pool: Pool) -> int:
    return sum(nbytes for (_, where), nbytes in state.items() if where is pool)


@given(ledgers())
def test_a_ledger_evaluates_to_what_adding_up_every_moment_says(steps: list[Step]) -> None:
    theory = evaluate(steps, floor_bytes=7)
    every = states(steps)
    peaks = [max(in_pool(state, pool) for state in every) for pool in HOST_POOLS]
    ends = [in_pool(every[-1], pool) for pool in HOST_POOLS]
    assert [theory.peak.heap_bytes, theory.peak.file_bytes, theory.peak.pinned_bytes] == peaks
    assert [theory.steady.heap_bytes, theory.steady.file_bytes, theory.steady.pinned_bytes] == ends
    assert theory.peak_rss_bytes == max(state.total() for state in every)
    assert theory.floor_bytes == 7


@given(ledgers())
def test_a_bill_is_what_was_live_at_a_moment_of_the_peak_and_sums_to_it(steps: list[Step]) -> None:
    theory = evaluate(steps, 0)
    assert sum(line.nbytes for line in theory.bill) == theory.peak_rss_bytes
    at_peak = [
        {BillLine(item, pool.name.lower(), nbytes) for (item, pool), nbytes in state.items() if nbytes}
        for state in states(steps)
        if state.total() == theory.peak_rss_bytes
    ]
    assert set(theory.bill) in at_peak
    assert len(set(theory.bill)) == len(theory.bill)


@given(ledgers())
def test_work_is_every_step_but_releases_and_what_a_copy_reads_of_a_mapping(steps: list[Step]) -> None:
    reported = [
        one.nbytes
        for one in steps
        if one.operation in (Operation.MATERIALISE, Operation.COPY, Operation.ASSIGN)
        or (one.operation is Operation.TOUCH and one.phase == "touch")
    ]
    assert evaluate(steps, 0).work_bytes == sum(reported)


@given(ledgers())
def test_what_is_moved_is_what_is_written_copied_or_touched(steps: list[Step]) -> None:
    """Neither a mapping, nor handing memory over, nor giving it back moves a byte."""
    moved = [one.nbytes for one in steps if one.operation is Operation.COPY or grows_by(one) > 0]
    assert evaluate(steps, 0).moved_bytes == sum(moved)


@given(ledgers())
def test_the_peak_is_never_below_any_pools_and_never_above_their_sum(steps: list[Step]) -> None:
    theory = evaluate(steps, 0)
    pools = [theory.peak.heap_bytes or 0, theory.peak.file_bytes or 0, theory.peak.pinned_bytes or 0]
    assert max(pools) <= theory.peak_rss_bytes <= sum(pools)


@given(ledgers(), ledgers(), st.integers(2, 4), st.booleans())
def test_rounds_are_what_their_steps_are_one_by_one(
    before: list[Step], around: list[Step], times: int, twice: bool
) -> None:
    each = [one for one in around if one.operation is Operation.MATERIALISE and one.pool is Pool.HEAP]
    rounds = [*each, *(one._replace(operation=Operation.RELEASE) for one in reversed(each))]
    short = [*before, *(one._replace(times=times) for one in rounds), *(rounds if twice else [])]
    long = [*before, *(rounds * times), *(rounds if twice else [])]

    assert list(spelt_out(short)) == long
    assert evaluate(short, 0) == evaluate(long, 0)


def test_an_empty_ledger_costs_nothing() -> None:
    theory = evaluate([], 0)
    assert theory == Theory(0, theory.peak, 0, theory.peak)
    assert (theory.peak.heap_bytes, theory.peak.file_bytes, theory.peak.pinned_bytes) == (0, 0, 0)


def test_pools_that_peak_at_different_moments_do_not_add_up_to_the_peak() -> None:
    # given heap that is gone before file pages come
    steps = [
        step(Operation.MATERIALISE, Pool.HEAP, 100),
        step(Operation.RELEASE, Pool.HEAP, 100),
        step(Operation.MATERIALISE, Pool.FILE, 70),
        step(Operation.TOUCH, Pool.FILE, 70, Item.SHARD),
    ]
    theory = evaluate(steps, 0)
    assert (theory.peak.heap_bytes, theory.peak.file_bytes, theory.peak_rss_bytes) == (100, 70, 100)
    assert theory.bill == (BillLine(Item.FLOOR, "heap", 100),)
    assert (theory.steady.heap_bytes, theory.steady.file_bytes) == (0, 70)


def test_device_pools_are_unknown_rather_than_zero() -> None:
    peak = evaluate([step(Operation.MATERIALISE, Pool.HEAP, 1)], 0).peak
    assert (peak.vram_allocated_bytes, peak.vram_reserved_bytes) == (None, None)


@pytest.mark.parametrize(
    ("operation", "pool", "expected"),
    [
        (Operation.MATERIALISE, Pool.HEAP, 8),
        (Operation.MATERIALISE, Pool.PINNED, 8),
        (Operation.MATERIALISE, Pool.FILE, 0),
        (Operation.TOUCH, Pool.FILE, 8),
        (Operation.MATERIALISE, Pool.NONE, 0),
        (Operation.TOUCH, Pool.HEAP, 8),
        (Operation.RELEASE, Pool.HEAP, -8),
        (Operation.RELEASE, Pool.FILE, -8),
        (Operation.COPY, Pool.NONE, 0),
        (Operation.ASSIGN, Pool.NONE, 0),
    ],
)
def test_a_step_grows_its_pool(operation: Operation, pool: Pool, expected: int) -> None:
    assert step(operation, pool, 8).delta_bytes == expected
