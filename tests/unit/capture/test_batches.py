from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.capture.batches import Batch, expanded
from meminspect.capture.records import Event, EventKind, Operation, Pool
from meminspect.capture.ring import pack, unpack
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

PREFIX_BYTES = 8
operations = st.tuples(
    st.sampled_from([Operation.MATERIALISE, Operation.COPY, Operation.ASSIGN, Operation.TOUCH, Operation.RELEASE]),
    st.sampled_from(Pool),
    st.integers(1, 2**32 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(0, 2**50),
    st.text(max_size=10),
    st.integers(-1, 100),
    st.integers(-1, 2**50),
)


def batch_of(*rows: tuple[Operation, Pool, int, str, int, str, int, int], since_ns: int = 100) -> Batch:
    batch = Batch(since_ns)
    for row in rows:
        batch.add(*row)
    return batch


@given(st.lists(operations, min_size=1, max_size=30), st.integers(0, 10**9))
def test_whatever_is_gathered_comes_out_one_by_one_in_order(rows: list, elapsed_ns: int) -> None:
    records = [unpack(pack(record)[PREFIX_BYTES:]) for record in batch_of(*rows).events(100 + elapsed_ns)]
    events = [event for record in records for event in expanded(record)]
    assert (EventKind.BATCH in {record.kind for record in records}) == (len(rows) > 1)
    assert [event.t_ns for event in events] == sorted(event.t_ns for event in events)
    assert all(100 <= event.t_ns <= 100 + elapsed_ns for event in events)
    assert sum(event.kind is EventKind.END for event in events) == sum(
        event.kind is EventKind.BEGIN for event in events
    )
    begun = [event for event in events if event.kind is not EventKind.END]
    assert [(event.id, event.name, event.nbytes, event.pool) for event in begun] == [
        (id_, name, nbytes, pool) for _, pool, id_, name, nbytes, *_ in rows
    ]
    for event, (operation, _, _, _, _, detail, file, offset) in zip(begun, rows, strict=True):
        if operation is Operation.RELEASE:
            assert (event.kind, event.operation) == (EventKind.RELEASE, Operation.MATERIALISE)
        else:
            assert (event.operation, event.detail, event.file, event.offset) == (operation, detail, file, offset)


def test_a_batch_is_full_by_number_or_by_the_length_of_its_names() -> None:
    row = (Operation.ASSIGN, Pool.NONE, 1, "a", 0, "", -1, -1)
    batch = Batch(0)
    assert [batch.add(*row) for _ in range(256)] == [False] * 255 + [True]
    assert Batch(0).add(*row[:3], "a" * 70_000, *row[4:])


def test_other_events_stand_for_themselves() -> None:
    event = Event(1, EventKind.PHASE, name="read")
    assert list(expanded(event)) == [event]


def test_a_capture_gives_a_batchs_operations_under_its_number_and_counts_it_once(tmp_path: Path) -> None:
    row = (Operation.ASSIGN, Pool.NONE, 1, "a", 0, "", -1, -1)
    (batch,) = batch_of(row, (*row[:2], 2, "b", *row[4:]), since_ns=1100).events(1200)
    writer = CaptureWriter(tmp_path / "run.meminspect", 1000)
    writer.append([], [batch, Event(1300, EventKind.PHASE, name="copy")], [])
    writer.close()
    with CaptureReader(tmp_path / "run.meminspect") as reader:
        first = reader.events(0, 1)
        assert [(seq, event.name) for seq, event in first] == [(1, "a"), (1, "a"), (1, "b"), (1, "b")]
        assert [event.t_ns for _, event in first] == [100, 150, 150, 200]
        assert [seq for seq, _ in reader.events(1)] == [2]


@pytest.mark.parametrize(
    "detail", ["", "[]", "{}", '{"elapsed_ns": 1, "kinds": [], "rows": [[0, 1, "a", 1, "", 0]]}', '{"elapsed_ns": "x"}']
)
def test_a_damaged_batch_is_a_damaged_capture(detail: str, tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "run.meminspect", 0)
    writer.append([], [Event(1, EventKind.BATCH, detail=detail)], [])
    writer.close()
    with CaptureReader(tmp_path / "run.meminspect") as reader, pytest.raises(CaptureError, match="damaged"):
        reader.events()


def test_a_record_is_json_that_names_its_columns() -> None:
    rows = [(Operation.TOUCH, Pool.FILE, 3, "a", 4, "", 0, 8), (Operation.RELEASE, Pool.FILE, 3, "a", 4, "", 0, 8)]
    (record,) = batch_of(*rows).events(150)
    document = json.loads(record.detail)
    assert document["kinds"] == [["touch", "file", 0], ["release", "file", 0]]
    assert [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]] == [
        {"kind": kind, "id": 3, "name": "a", "bytes": 4, "detail": "", "file_offset": 8} for kind in range(2)
    ]
    assert document["elapsed_ns"] == 50
