from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from event_examples import Ring, events, numbered
from hypothesis import given, settings
from hypothesis import strategies as st

from meminspect.capture.records import Event, EventKind
from meminspect.capture.ring import RingReader, RingWriter, create_ring, pack, unpack
from meminspect.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX_BYTES = 8
SMALL_RING = 1024


@contextlib.contextmanager
def ring(capacity: int = SMALL_RING) -> Iterator[Ring]:
    made = Ring(capacity)
    try:
        yield made
    finally:
        made.close()


@given(events)
def test_any_event_packed_and_unpacked_is_the_same(event: Event) -> None:
    assert unpack(pack(event)[PREFIX_BYTES:]) == event


@settings(deadline=None)
@given(st.lists(events, min_size=1, max_size=12))
def test_any_event_through_a_ring_is_the_same_wherever_that_wraps_around(given: list[Event]) -> None:
    with ring(2048) as pair:
        for event in given:
            pair.writer.put(tuple(event))
            assert list(pair.reader.drain()) == [event]
        assert pair.writer.lost == 0


def test_a_full_ring_counts_what_is_put_as_lost() -> None:
    with ring(512) as pair:
        for index in range(9):
            pair.writer.put(tuple(numbered(index)))
        arrived = [event.id for event in pair.reader.drain()]
        assert arrived == list(range(len(arrived)))
        assert 2 <= len(arrived) == 9 - pair.writer.lost


@given(st.text(st.characters(categories=["Cs", "Cc", "Lu"]), min_size=1, max_size=20))
def test_a_name_with_lone_surrogates_arrives_as_text_that_sqlite_takes(name: str) -> None:
    arrived = unpack(pack(Event(0, EventKind.PHASE, name=name))[PREFIX_BYTES:]).name
    assert arrived == name.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("name", ["x" * 5000, "ü" * 5000, "a" + "ü" * 5000])
def test_a_name_that_is_too_long_is_cut_and_the_detail_stays_whole(name: str) -> None:
    event = unpack(pack(Event(0, EventKind.BEGIN, name=name, detail="float16 [2]"))[PREFIX_BYTES:])
    assert event.name == name[:4096]
    assert event.detail == "float16 [2]"


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 300), st.none()), max_size=120))
def test_a_small_ring_hands_over_in_order_what_it_had_room_for_and_counts_the_rest(actions: list[int | None]) -> None:
    """An integer writes an event with a name that long, None drains."""
    with ring(SMALL_RING) as pair:
        free, lost = SMALL_RING, 0
        expected: list[Event] = []
        for index, action in enumerate(actions):
            if action is None:
                assert list(pair.reader.drain()) == expected
                free, expected = SMALL_RING, []
                continue
            event = numbered(index, "n" * action)
            pair.writer.put(event)
            if len(pack(event)) <= free:
                free -= len(pack(event))
                expected.append(event)
            else:
                lost += 1
        assert list(pair.reader.drain()) == expected
        assert pair.reader.lost == pair.writer.lost == lost


def test_records_that_wrap_around_the_end_are_whole() -> None:
    # given a capacity that no number of records fills exactly
    with ring(1000) as pair:
        for index in range(500):
            pair.writer.put(numbered(index, f"tensor.{index}"))
            assert [event.id for event in pair.reader.drain()] == [index]
        assert pair.reader.lost == 0


def test_a_full_ring_keeps_the_oldest_and_takes_new_ones_once_it_is_drained() -> None:
    with ring() as pair:
        for index in range(100):
            pair.writer.put(numbered(index))
        kept = [event.id for event in pair.reader.drain()]
        assert kept == list(range(len(kept)))
        assert pair.reader.lost == 100 - len(kept) > 0

        pair.writer.put(numbered(1000))
        assert [event.id for event in pair.reader.drain()] == [1000]


def test_a_record_larger_than_the_ring_is_lost_and_counted() -> None:
    with ring(256) as pair:
        pair.writer.put(numbered(0, "x" * 500))
        pair.writer.put(numbered(1))
        assert [event.id for event in pair.reader.drain()] == [1]
        assert pair.reader.lost == 1


def test_a_drain_that_is_given_up_half_way_goes_on_where_it_stopped() -> None:
    with ring() as pair:
        for index in range(4):
            pair.writer.put(numbered(index))
        assert next(pair.reader.drain()).id == 0
        assert [event.id for event in pair.reader.drain()] == [1, 2, 3]


@settings(deadline=None)
@given(st.data())
def test_a_torn_record_stops_the_reader_until_it_is_whole(data: st.DataObject) -> None:
    with ring() as pair:
        written = [numbered(index) for index in range(3)]
        for event in written:
            pair.writer.put(event)
        first, second, _ = (len(pack(event)) for event in written)
        torn = data.draw(st.integers(first, first + second - 1))

        # given any one byte of the second record, its length and checksum included, that is not visible yet
        pair.flip(torn)
        assert [event.id for event in pair.reader.drain()] == [0]
        assert list(pair.reader.drain()) == []

        # when it has become visible
        pair.flip(torn)
        assert [event.id for event in pair.reader.drain()] == [1, 2]


def test_memory_that_is_no_ring_is_refused() -> None:
    descriptor = os.memfd_create("something-else")
    os.ftruncate(descriptor, 4096)
    try:
        with pytest.raises(RunError, match="not one of ours"):
            RingReader(descriptor)
    finally:
        os.close(descriptor)


_CHILD = """
import sys
import tempfile
sys.path[:] = sys.argv[2].split("\\n")
from meminspect.capture.records import Event, EventKind
from meminspect.capture.ring import RingWriter
writer = RingWriter(int(sys.argv[1]))
index = 0
while True:
    writer.put(Event(index, EventKind.BEGIN, id=index, name=f"tensor.{index}" * 5))
    index += 1
    if index == 200:
        print("under way", flush=True)
"""


def test_a_writer_killed_in_the_middle_of_writing_leaves_every_finished_record() -> None:
    # given another process that writes without end
    descriptor = create_ring()
    reader = RingReader(descriptor)
    command = [sys.executable, "-c", _CHILD, str(descriptor), "\n".join(sys.path)]
    with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"under way\n"
        # when it is killed
        child.kill()
        assert child.wait() == -signal.SIGKILL
    # then what is read is what was written, from the first record on, without a gap
    read = list(reader.drain())
    assert len(read) >= 200
    assert [event.id for event in read] == list(range(len(read)))
    assert all(event.name == f"tensor.{event.id}" * 5 for event in read)
    reader.close()
    os.close(descriptor)


def test_a_ring_full_of_events_has_room_left_for_what_a_result_hangs_on() -> None:
    descriptor = create_ring(4 << 20)
    writer, reader = RingWriter(descriptor), RingReader(descriptor)
    while not writer.lost:
        writer.put(Event(1, EventKind.RELEASE, name="x" * 4000))

    writer.put(Event(2, EventKind.REPORT, name="end"), vital=True)

    assert writer.lost == 1
    assert [found.name for found in reader.drain()][-1] == "end"


@pytest.mark.parametrize("absent", [True, False], ids=["no such call", "forbidden"])
def test_without_anonymous_memory_a_ring_lies_in_a_file_without_a_name(
    absent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if absent:
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.delattr(mmap, "MAP_POPULATE")
    else:
        monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with ring() as pair:
        pair.writer.put(numbered(7))

        assert list(pair.reader.drain()) == [numbered(7)]
        assert os.fstat(pair.descriptor).st_size == 4096 + SMALL_RING
        assert not os.get_inheritable(pair.descriptor)
        assert not list(tmp_path.iterdir())


def test_without_room_for_that_file_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)

    with pytest.raises(RunError, match=r"no room for the events of a run in .*: Operation not permitted") as raised:
        create_ring()

    assert raised.value.hint == "set TMPDIR"


def refuse(*_: object, **__: object) -> int:
    raise PermissionError(errno.EPERM, "Operation not permitted")
