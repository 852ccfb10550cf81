"""What a limit leaves of a theory: heap stays, a mapping holds what heap leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.confinement import (
    confined_document,
    confined_lines,
    confined_theory,
    held_bytes,
    room_under,
)  # fmt: skip
from meminspect.analysis.describe import theory_document
from meminspect.capture.records import Operation, Pool
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import BillLine, Pools, Step, Theory

SIZES = st.integers(0, 1 << 40)


def theory(heap: int, file: int) -> Theory:
    """All of it at one moment."""
    bill = tuple(BillLine("floor", pool, nbytes) for pool, nbytes in (("heap", heap), ("file", file)) if nbytes)
    return Theory(heap + file, Pools(heap, file), heap + file, Pools(heap, file), bill, 7)


@pytest.mark.parametrize(
    ("heap", "file", "room", "held", "peak"),
    [
        (0, 100, None, 100, 100),
        (0, 100, 100, 100, 100),
        (0, 100, 30, 30, 30),
        (20, 100, 30, 10, 30),
        (20, 0, 30, 0, 20),  # no file
        (20, 100, 0, 0, 20),  # no room: it dies, and needs its heap all the same
        (50, 100, 30, 0, 50),
    ],
)
def test_a_mapping_holds_what_heap_leaves_of_the_room(
    heap: int, file: int, room: int | None, held: int, peak: int
) -> None:
    confined = confined_theory(theory(heap, file), room)
    assert (confined.peak.heap_bytes, confined.peak.file_bytes) == (heap, held)
    assert (confined.steady.heap_bytes, confined.steady.file_bytes) == (heap, held)
    assert confined.peak_rss_bytes == sum(line.nbytes for line in confined.bill) == peak
    assert (confined.floor_bytes, confined.work_bytes) == (heap + file, 7)


def test_a_document_is_confined_as_its_theory_is_and_keeps_what_others_added() -> None:
    whole = {**theory_document(replace(theory(20, 100), moved_bytes=3)), "more": 1}
    assert confined_document(whole, 50) == {
        **theory_document(confined_theory(replace(theory(20, 100), moved_bytes=3), 50)),
        "more": 1,
    }
    assert confined_document(whole, None) == whole
    assert confined_document(None, 50) is None


def test_the_room_is_what_the_limit_leaves_above_the_heap_of_the_baseline() -> None:
    assert room_under(None, 10) is None
    assert room_under(100, 10) == 90
    assert room_under(5, 10) == 0


@given(files=st.lists(SIZES, max_size=5), heaps=st.lists(SIZES, max_size=3), room=st.none() | SIZES)
def test_lines_of_files_share_what_is_left_and_no_byte_is_lost(
    files: list[int], heaps: list[int], room: int | None
) -> None:
    lines = [BillLine(str(n), "file", nbytes) for n, nbytes in enumerate(files)]
    lines += [BillLine(str(n), "heap", nbytes) for n, nbytes in enumerate(heaps)]
    confined = confined_lines(lines, room)
    assert sum(line.nbytes for line in confined if line.pool == "heap") == sum(heaps)
    assert sum(line.nbytes for line in confined if line.pool == "file") == held_bytes(sum(files), sum(heaps), room)
    before = {(line.item, line.pool): line.nbytes for line in lines}
    assert all(0 <= line.nbytes <= before[line.item, line.pool] for line in confined)


def test_what_is_on_a_device_leaves_files_their_room() -> None:
    lines = (BillLine("floor", "file", 100), BillLine("floor", "vram", 1000))
    assert confined_lines(lines, 30) == (BillLine("floor", "file", 30), lines[1])


STEPS = st.lists(
    st.tuples(st.sampled_from([(Operation.MATERIALISE, Pool.HEAP), (Operation.TOUCH, Pool.FILE)]), st.integers(1, 99)),
    max_size=12,
)


@given(grown=STEPS, room=st.integers(0, 600))
def test_the_peak_is_that_of_the_timeline_as_the_kernel_would_let_it_be(
    grown: list[tuple[tuple[Operation, Pool], int]], room: int
) -> None:
    # given a load that at every other step drops what it has last taken
    steps, heap, file, peak = [], 0, 0, 0
    for n, ((operation, pool), nbytes) in enumerate(grown):
        for step in (Step("read", operation, pool, "floor", str(n), nbytes),
                     Step("read", Operation.RELEASE, pool, "floor", str(n), nbytes))[: 1 + n % 2]:  # fmt: skip
            steps.append(step)
            heap, file = (heap + step.delta_bytes, file) if pool is Pool.HEAP else (heap, file + step.delta_bytes)
            peak = max(peak, heap + held_bytes(file, heap, room))
    # then
    assert confined_theory(evaluate(steps, 0), room).peak_rss_bytes == peak
