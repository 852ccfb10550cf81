from __future__ import annotations

import time

import pytest
from run_events import MS, baseline, begin, end, phase, release

from meminspect.analysis.operations import Operations, TensorOperation
from meminspect.capture.records import Event, EventKind, Operation, Pool


def rows_of(*events: Event) -> list[TensorOperation]:
    operations = Operations()
    operations.update([baseline(), *events])
    return operations.rows


def made(in_phase: str, pool: Pool, detail: str = "float16 [4, 8]") -> list[Event]:
    return [phase(11, in_phase), begin(12, Operation.MATERIALISE, pool, 1, "w", 64)._replace(detail=detail)]


def test_begin_and_end_make_one_row() -> None:
    # given
    first = begin(12, Operation.MATERIALISE, Pool.HEAP, 1, "w", 64)._replace(detail="float16 [4, 8]")

    # when
    rows = rows_of(phase(11, "read"), first, end(15, first))

    # then
    assert rows == [TensorOperation(12 * MS, "read", "read", "w", "[4, 8]", "f16", 64, 3 * MS, Pool.HEAP)]


def test_a_row_is_there_from_its_begin_and_gets_its_duration_later() -> None:
    # given
    operations = Operations()
    first = begin(12, Operation.MATERIALISE, Pool.HEAP, 1, "w", 64)
    operations.update([baseline(), first])
    rows = operations.rows
    assert rows[0].elapsed_ns is None

    # when
    operations.update([end(13, first), release(14, first)])

    # then
    assert operations.rows is rows
    assert [row.elapsed_ns for row in rows] == [1 * MS]


def test_operations_that_overlap_keep_the_order_of_their_begins() -> None:
    outer = begin(12, Operation.MATERIALISE, Pool.HEAP, 1, "outer", 1)
    inner = begin(13, Operation.MATERIALISE, Pool.HEAP, 2, "inner", 1)

    rows = rows_of(outer, inner, end(14, inner), end(17, outer))

    assert [(row.tensor, row.elapsed_ns) for row in rows] == [("outer", 5 * MS), ("inner", 1 * MS)]


def test_what_precedes_the_baseline_is_not_of_the_load() -> None:
    early = begin(1, Operation.MATERIALISE, Pool.HEAP, 1, "warm-up", 1)
    operations = Operations()

    operations.update([early, baseline(), end(11, early)])

    assert operations.rows == []


@pytest.mark.parametrize(
    ("in_phase", "pool", "word"),
    [
        ("build", Pool.HEAP, "built"),
        ("read", Pool.HEAP, "read"),
        ("read", Pool.FILE, "mapped"),
        ("merge", Pool.HEAP, "merged"),
        ("cast", Pool.HEAP, "cast"),
        ("copy", Pool.HEAP, "read"),
    ],
)
def test_what_was_made_is_said_by_phase_and_pool(in_phase: str, pool: Pool, word: str) -> None:
    (row,) = rows_of(*made(in_phase, pool))

    assert (row.word, row.phase, row.pool) == (word, in_phase, pool)


@pytest.mark.parametrize(
    ("operation", "word"),
    [(Operation.COPY, "copied"), (Operation.ASSIGN, "assigned"), (Operation.TOUCH, "touched")],
)
def test_what_was_done_to_memory_that_is_there(operation: Operation, word: str) -> None:
    assert [row.word for row in rows_of(begin(12, operation, Pool.NONE, 1, "w", 64))] == [word]


@pytest.mark.parametrize(
    ("detail", "shape", "dtypes"),
    [
        ("float16 → float32 [4096, 4096]", "[4096, 4096]", "f16→f32"),
        ("float32 → float32 [2]", "[2]", "f32"),
        ("bfloat16 []", "[]", "bf16"),
        ("float8_e4m3fn [1]", "[1]", "f8e4m3"),
        ("float8_e4m3fn → bfloat16 [1]", "[1]", "f8e4m3→bf16"),
        ("complex64 [1]", "[1]", "c64"),
        ("uint8 [1]", "[1]", "u8"),
        ("int64 [1]", "[1]", "i64"),
        ("bool [1]", "[1]", "bool"),
        ("gibberish", "", "gibberish"),
    ],
)
def test_shape_and_types_come_from_the_detail(detail: str, shape: str, dtypes: str) -> None:
    (row,) = rows_of(*made("copy", Pool.NONE, detail))

    assert (row.shape, row.dtypes) == (shape, dtypes)


def test_an_assigned_tensor_is_as_it_was_last() -> None:
    # given
    cast = [
        phase(13, "cast"),
        begin(14, Operation.MATERIALISE, Pool.HEAP, 2, "w", 128)._replace(detail="float32 [4, 8]"),
    ]
    assigned = begin(15, Operation.ASSIGN, Pool.NONE, 3, "w", 128)

    # when
    rows = rows_of(*made("read", Pool.HEAP), *cast, assigned)

    # then
    assert [(row.word, row.shape, row.dtypes) for row in rows] == [
        ("read", "[4, 8]", "f16"),
        ("cast", "[4, 8]", "f16→f32"),
        ("assigned", "[4, 8]", "f32"),
    ]


def test_of_a_tensor_never_described_nothing_is_said() -> None:
    (row,) = rows_of(begin(12, Operation.ASSIGN, Pool.NONE, 1, "tied", 64))

    assert (row.shape, row.dtypes) == ("", "")


def test_an_end_whose_begin_was_lost_is_passed_over() -> None:
    lost = begin(12, Operation.COPY, Pool.NONE, 7, "w", 64)

    assert rows_of(end(13, lost)) == []


def _seconds_for(count: int) -> float:
    events = [baseline()]
    for id_ in range(count):
        first = Event(id_, EventKind.BEGIN, Operation.COPY, Pool.NONE, id_, 64, name=f"w{id_}", detail="float16 [4, 8]")
        events += [first, first._replace(kind=EventKind.END)]
    operations = Operations()
    started = time.process_time()
    operations.update(events)
    assert len(operations.rows) == count
    return time.process_time() - started


def test_ten_times_the_operations_take_no_more_than_some_ten_times_as_long() -> None:
    assert _seconds_for(50_000) < 50 * _seconds_for(5_000)
