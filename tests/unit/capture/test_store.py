from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from event_examples import events, files_in
from golden_capture import (
    EVENTS,
    FACTS,
    LEDGER,
    SAMPLES,
    relative_events,
    relative_log,
    relative_page_cache,
    relative_samples,
    write_capture,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from meminspect.capture.records import Event, EventKind, LogLine, Sample
from meminspect.capture.schema import APPLICATION_ID, VERSION
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator

_counts = st.integers(-(2**62), 2**62)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.meminspect"


@pytest.fixture
def growing(path: Path) -> Iterator[CaptureWriter]:
    """A capture that is being written."""
    writer = CaptureWriter(path, started_ns=0)
    yield writer
    writer.close()


def journal_mode(path: Path) -> str:
    with sqlite3.connect(path) as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    database.close()
    return str(mode)


def test_what_is_written_is_read_with_times_from_the_runs_start(path: Path) -> None:
    write_capture(path)
    with CaptureReader(path) as capture:
        assert {name: capture.fact(name) for name in FACTS} == FACTS
        assert capture.events() == list(enumerate(relative_events(), 1))
        assert capture.samples() == relative_samples()
        assert capture.log() == relative_log()
        assert capture.ledger() == list(LEDGER)
        assert capture.page_cache() == relative_page_cache()


@settings(deadline=None, max_examples=40)  # each makes a database
@given(st.lists(events.filter(lambda event: 0 <= event.t_ns < 2**62), max_size=5))
def test_any_events_are_read_as_they_were_written(written: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.meminspect"
        writer = CaptureWriter(path, started_ns=0)
        writer.append([], written, [])
        writer.close()
        with CaptureReader(path) as capture:
            assert [event for _, event in capture.events()] == written


@settings(deadline=None, max_examples=40)
@given(st.builds(Sample, st.integers(0, 2**62), *[st.none() | _counts] * 10))
def test_any_sample_is_read_as_it_was_written(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.meminspect"
        writer = CaptureWriter(path, started_ns=0)
        writer.append([sample], [], [])
        writer.close()
        with CaptureReader(path) as capture:
            assert capture.samples() == [sample]


def test_a_fact_that_nobody_has_stored_is_none_and_a_new_one_replaces_the_old(path: Path) -> None:
    writer = CaptureWriter(path, 0)
    writer.fact("outcome", {"n": 1})
    writer.fact("outcome", {"n": 2})
    with CaptureReader(path) as capture:
        assert capture.fact("theory") is None
        assert capture.fact("outcome") == {"n": 2}
    writer.close()


def test_a_growing_capture_is_read_from_where_the_reader_stopped(path: Path, growing: CaptureWriter) -> None:
    growing.append(SAMPLES[:1], EVENTS[:3], [])
    with CaptureReader(path) as capture:
        first = capture.events()
        assert [seq for seq, _ in first] == [1, 2, 3]
        assert capture.samples() == list(SAMPLES[:1])

        # when more is written while the reader is open
        growing.append(SAMPLES[1:], EVENTS[3:], [])
        assert [event for _, event in capture.events(after_seq=3)] == list(EVENTS[3:])
        assert capture.samples(after_t_ns=SAMPLES[0].t_ns) == [SAMPLES[1]]
        assert capture.events(after_seq=len(EVENTS)) == []


def test_appending_nothing_is_nothing(path: Path, growing: CaptureWriter) -> None:
    growing.append([], [], [])
    with CaptureReader(path) as capture:
        assert capture.events() == []
        assert capture.samples() == []
        assert capture.log() == []


def test_a_batch_that_cannot_be_written_leaves_no_part_of_it(path: Path, growing: CaptureWriter) -> None:
    # given a batch whose last event is larger than a database integer
    odd = Event(2**70, EventKind.PHASE, name="odd")
    with pytest.raises(CaptureError, match="too large"):
        growing.append(SAMPLES, [*EVENTS, odd], [])
    with CaptureReader(path) as capture:
        assert capture.events() == []
        assert capture.samples() == []
    # then the next one is written
    growing.append(SAMPLES, [], [])


def test_the_lone_file_of_a_growing_capture_has_its_tables_and_marks(
    path: Path, growing: CaptureWriter, tmp_path: Path
) -> None:
    growing.append(SAMPLES, EVENTS, [])
    alone = tmp_path / "elsewhere" / "copy.meminspect"
    alone.parent.mkdir()
    shutil.copyfile(path, alone)
    with sqlite3.connect(alone) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    database.close()
    assert tables == {"facts", "samples", "events", "page_cache", "device_samples", "ledger", "log"}


def test_a_closed_capture_is_one_file_and_its_copy_is_complete(path: Path, tmp_path: Path) -> None:
    write_capture(path)
    assert files_in(tmp_path) == ["run.meminspect"]
    assert journal_mode(path) == "delete"

    copy = shutil.copyfile(path, tmp_path / "copy.meminspect")
    with CaptureReader(copy) as capture:
        assert capture.events() == list(enumerate(relative_events(), 1))


def test_reading_a_closed_capture_does_not_change_its_bytes(path: Path, tmp_path: Path) -> None:
    write_capture(path)
    before = path.read_bytes()
    with CaptureReader(path) as capture:
        capture.events()
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["run.meminspect"]


def test_a_capture_closed_under_a_readers_eyes_is_complete_in_its_one_file(path: Path, tmp_path: Path) -> None:
    # given a live view that has the capture open
    writer = write_capture(path, close=False)
    with CaptureReader(path) as view:
        view.events()
        writer.close()
        # then the file by itself holds everything
        with CaptureReader(shutil.copyfile(path, tmp_path / "copy.meminspect")) as capture:
            assert capture.events() == list(enumerate(relative_events(), 1))


def test_a_capture_closed_under_a_readers_eyes_has_left_wal_once_the_reader_is_gone(path: Path, tmp_path: Path) -> None:
    writer = write_capture(path, close=False)
    with CaptureReader(path) as view:
        view.events()
        writer.close()
    assert files_in(tmp_path) == ["run.meminspect"]
    assert journal_mode(path) == "delete"  # or it could not be opened from a read-only folder


def test_closing_twice_is_harmless(path: Path) -> None:
    writer = write_capture(path)
    writer.close()


def test_a_capture_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "run.meminspect"
    write_capture(path)
    assert path.is_file()


def test_plain_sqlite_reads_it_by_its_documented_names(path: Path) -> None:
    write_capture(path)
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT kind, operation, pool, bytes FROM events WHERE name = 'layers.0.größe' ORDER BY seq"
        ).fetchall()
    database.close()
    assert rows[0] == ("begin", "materialise", "heap", 4096)
    assert rows[-1] == ("release", "materialise", "heap", 4096)


def test_what_a_worker_did_before_its_run_counts_as_done_at_the_start(path: Path) -> None:
    writer = CaptureWriter(path, started_ns=1000)
    early = Event(400, EventKind.PHASE, name="import")
    writer.append([], [early, early._replace(t_ns=1005)], [LogLine(900, "stderr", "a warning")])
    writer.close()

    with CaptureReader(path) as capture:
        assert [event.t_ns for _, event in capture.events()] == [0, 5]
        assert capture.log() == [LogLine(0, "stderr", "a warning")]
