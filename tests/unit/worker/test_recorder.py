from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, cast

import pytest
from worker_doubles import BIG, Recording

from meminspect.capture.batches import expanded
from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading
from meminspect.capture.ring import pack
from meminspect.worker import recorder as recorder_module
from meminspect.worker.recorder import READING_GAP_NS, SMALL_BYTES, Recorder

if TYPE_CHECKING:
    from meminspect.sampling.procfs import ProcessMemory

MATERIALISE, HEAP = Operation.MATERIALISE, Pool.HEAP


def test_an_operation_is_written_as_it_begins_ends_and_is_released_under_one_id(recording: Recording) -> None:
    recorder = recording.recorder
    id_ = recorder.begin(MATERIALISE, HEAP, "a", BIG, detail="float16 [2]", file=3, offset=64)
    (begun,) = recording.events()  # before the bytes are allocated
    recorder.end(id_, MATERIALISE, HEAP, "a", BIG)
    recorder.release(id_, HEAP, "a", BIG)
    ended, released = recording.events()
    assert (begun.kind, ended.kind, released.kind) == (EventKind.BEGIN, EventKind.END, EventKind.RELEASE)
    assert {event.id for event in (begun, ended, released)} == {id_}
    assert (begun.name, begun.nbytes, begun.detail, begun.file, begun.offset) == ("a", BIG, "float16 [2]", 3, 64)
    assert begun.t_ns <= ended.t_ns <= released.t_ns


def test_a_big_tensor_alone_between_two_readings_has_an_exact_mark(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(READING_GAP_NS, READING_GAP_NS)
    monkeypatch.setattr(recorder_module.time, "monotonic_ns", lambda: next(clock))
    recorder, memory = recording.recorder, recording.memory
    recorder.reading("baseline", reset=True)
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", BIG), MATERIALISE, HEAP, "a", BIG)
    _, begun, ended = recording.events()
    assert (begun.reading, begun.exact) == (None, False)  # before it there was nothing since the last one
    assert (ended.reading is not None, ended.exact) == (True, True)
    assert (memory.readings, memory.resets) == (2, 2)


def test_of_tensors_that_follow_fast_upon_each_other_not_every_one_is_read(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a clock that is moved by hand
    now_ns = [READING_GAP_NS]
    monkeypatch.setattr(recorder_module.time, "monotonic_ns", lambda: now_ns[0])
    recorder = recording.recorder
    for name in "abc":
        recorder.end(recorder.begin(MATERIALISE, HEAP, name, BIG), MATERIALISE, HEAP, name, BIG)
        now_ns[0] += READING_GAP_NS // 2
    # then the first and the third are, and the third's mark is not its own
    ends = recording.events(EventKind.END)
    assert [event.reading is not None for event in ends] == [True, False, True]
    assert not ends[2].exact


def test_a_small_tensor_costs_no_reading(recording: Recording) -> None:
    recorder, memory = recording.recorder, recording.memory
    nbytes = SMALL_BYTES - 1
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", nbytes), MATERIALISE, HEAP, "a", nbytes)
    assert [(event.reading, event.exact) for event in recording.events()] == [(None, False)] * 2
    assert (memory.readings, memory.resets) == (0, 0)


def test_overlapping_tensors_are_never_exact_and_never_reset_the_mark_of_each_other(recording: Recording) -> None:
    recorder, memory = recording.recorder, recording.memory
    recorder.reading("baseline", reset=True)
    first = recorder.begin(MATERIALISE, HEAP, "a", BIG)
    second = recorder.begin(MATERIALISE, HEAP, "b", BIG)
    recorder.end(first, MATERIALISE, HEAP, "a", BIG)
    assert memory.resets == 1  # the second is still in flight
    recorder.end(second, MATERIALISE, HEAP, "b", BIG)
    assert [event.exact for event in recording.events()] == [False] * 5


def test_after_an_overlap_the_next_one_alone_is_exact_again(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(READING_GAP_NS, READING_GAP_NS)
    monkeypatch.setattr(recorder_module.time, "monotonic_ns", lambda: next(clock))
    recorder = recording.recorder
    overlapping = [recorder.begin(MATERIALISE, HEAP, name, BIG) for name in "ab"]
    for id_ in overlapping:
        recorder.end(id_, MATERIALISE, HEAP, "x", BIG)
    recorder.end(recorder.begin(MATERIALISE, HEAP, "c", BIG), MATERIALISE, HEAP, "c", BIG)
    assert recording.events()[-1].exact


def test_a_phase_within_an_operation_does_not_reset_its_mark(recording: Recording) -> None:
    recorder, memory = recording.recorder, recording.memory
    id_ = recorder.begin(MATERIALISE, HEAP, "a", BIG)
    recorder.phase("copy")
    assert memory.resets == 0
    recorder.end(id_, MATERIALISE, HEAP, "a", BIG)


def test_before_memory_falls_what_has_been_done_is_read_once_however_soon(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.reading("baseline", reset=True)
    id_ = recorder.begin(MATERIALISE, HEAP, "a", BIG)
    recorder.before_fall()  # in flight: its own end reads
    recorder._last_reading_ns = time.monotonic_ns()  # too soon after the last one
    recorder.end(id_, MATERIALISE, HEAP, "a", BIG)
    assert [event.reading is not None for event in recording.events()] == [True, False, False]
    recorder.before_fall()
    recorder.before_fall()
    (falling,) = recording.events()
    assert (falling.kind, falling.name, falling.reading is not None) == (EventKind.READING, "falling", True)


def test_what_takes_no_time_is_written_together_and_before_whatever_comes_next(recording: Recording) -> None:
    recorder = recording.recorder
    mapped = recorder.done(MATERIALISE, Pool.FILE, "a", BIG, detail="float16 [2]", file=1, offset=64)
    recorder.done(Operation.ASSIGN, Pool.NONE, "a", BIG)
    recorder.release(mapped, Pool.FILE, "a", BIG)
    assert recording.records() == []  # nothing yet
    recorder.begin(MATERIALISE, HEAP, "b", BIG)
    batch, begun = recording.records()
    assert (batch.kind, begun.name) == (EventKind.BATCH, "b")
    made, _, assigned, _, released = expanded(batch)
    assert (made.name, made.detail, made.file, made.offset, made.id) == ("a", "float16 [2]", 1, 64, mapped)
    assert (assigned.operation, released.kind, released.id) == (Operation.ASSIGN, EventKind.RELEASE, mapped)
    assert batch.t_ns <= begun.t_ns


def test_of_tiny_tensors_the_one_in_hand_is_marked_though_no_record_tells_of_it(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.tiny_bytes = 100
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", 99), MATERIALISE, HEAP, "a", 99)
    recorder.begin(MATERIALISE, HEAP, "größe", 99)
    assert recording.records() == []
    assert recording.mark == "größe"
    recorder.phase("copy")  # which writes them
    assert recording.mark == ""
    assert [event.name for event in recording.events(EventKind.BEGIN)] == ["a", "größe"]


def test_what_the_allocator_keeps_is_asked_when_the_highest_mark_is_read(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an allocator that keeps more and more, and marks of which the highest after the baseline is the second
    kept, marks = itertools.count(100), iter([SMALL_BYTES * mark for mark in (9000, 10, 30, 31, 20)])
    monkeypatch.setattr(recording.memory, "reading", lambda: Reading(5, 0, 0, next(marks)))
    recorder = Recorder(recording.writer, cast("ProcessMemory", recording.memory), lambda: next(kept))
    recorder.enabled = True
    recorder.reading("baseline", reset=True)
    for phase in ("build", "read", "copy", "assign"):
        recorder.phase(phase)
    # asked at 9000, which was before the baseline, at 10 and at 30; that 31 is another peak nobody can tell
    assert recorder.retained_at_peak_bytes == 102
    assert next(kept) == 103


def test_what_the_allocator_keeps_is_not_asked_at_a_tensors_end_but_before_memory_falls_from_there(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an allocator that keeps more and more, and a clock by which every end is due
    kept, marks = itertools.count(100), iter([SMALL_BYTES * mark for mark in (2, 10, 10, 20, 12)])
    clock = itertools.count(READING_GAP_NS, READING_GAP_NS)
    monkeypatch.setattr(recorder_module.time, "monotonic_ns", lambda: next(clock))
    monkeypatch.setattr(recording.memory, "reading", lambda: Reading(5, 0, 0, next(marks)))
    recorder = Recorder(recording.writer, cast("ProcessMemory", recording.memory), lambda: next(kept))
    recorder.enabled = True
    recorder.reading("baseline", reset=True)
    assert recorder.retained_at_peak_bytes == 100
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", BIG), MATERIALISE, HEAP, "a", BIG)
    assert recorder.retained_at_peak_bytes == 100
    recorder.before_fall(grown=True)
    assert recorder.retained_at_peak_bytes == 101
    # when it has fallen from a higher mark before anybody could ask
    recorder.end(recorder.begin(MATERIALISE, HEAP, "b", BIG), MATERIALISE, HEAP, "b", BIG)
    recorder.before_fall(grown=True)
    # then what it keeps now is not taken for what it kept there
    assert recorder.retained_at_peak_bytes == 101


def test_what_is_in_use_at_the_peak_is_asked_with_it_and_holds_what_no_allocator_knows_of(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, marks = recording.recorder, itertools.count(2 * SMALL_BYTES, 2 * SMALL_BYTES)
    monkeypatch.setattr(recording.memory, "reading", lambda: Reading(5, 0, 0, next(marks)))
    recorder.phase("read")
    assert recorder.used_at_peak_bytes is None  # nobody is to be asked
    recorder.used_bytes, recorder.beside_malloc_bytes = lambda: 5, 100
    recorder.phase("copy")
    assert recorder.used_at_peak_bytes == 105


def test_a_release_that_strikes_between_the_steps_of_gathering_leaves_the_batch_whole(recording: Recording) -> None:
    recorder, struck = recording.recorder, []

    class Name(str):
        """The first time that its length is asked for, the collector strikes."""

        __slots__ = ()

        def __len__(self) -> int:
            if not struck:
                struck.append("now")
                recorder.release(7, HEAP, "gone", BIG)
            return super().__len__()

    recorder.done(Operation.ASSIGN, Pool.NONE, Name("a"), BIG)
    assert struck
    assert [(event.name, event.kind) for event in recording.events()] == [
        ("a", EventKind.BEGIN), ("a", EventKind.END), ("gone", EventKind.RELEASE),
    ]  # fmt: skip


def test_the_same_phase_again_is_not_news(recording: Recording) -> None:
    for name in ("read", "read", "copy", "read"):
        recording.recorder.phase(name)
    assert [event.name for event in recording.events()] == ["read", "copy", "read"]


def test_nothing_is_recorded_of_the_warm_up_but_readings_and_reports(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.enabled = False
    recorder.phase("read")
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", BIG), MATERIALISE, HEAP, "a", BIG)
    recorder.report("environment", {})
    assert [event.kind for event in recording.events()] == [EventKind.REPORT]
    assert (recorder.events, recorder.hooks_s, recorder.event_us_median) == (0, 0, None)


def test_every_reset_is_preceded_by_a_reading_that_is_written(recording: Recording) -> None:
    recorder, memory = recording.recorder, recording.memory
    recorder.phase("build")
    recorder.end(recorder.begin(MATERIALISE, HEAP, "a", BIG), MATERIALISE, HEAP, "a", BIG)
    recorder.reading("baseline", reset=True)
    recorder.reading("steady")
    written = [event.reading for event in recording.events() if event.reading is not None]
    assert [reading.heap_bytes for reading in written] == [1, 2, 3]  # none was taken and kept to itself
    assert memory.resets == 2


def test_a_report_is_json_and_recording_accounts_for_its_cost(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.report("tensors", {"names": ["größe"]})
    (report,) = recording.events()
    assert (report.kind, report.name, json.loads(report.detail)) == (
        EventKind.REPORT, "tensors", {"names": ["größe"]},
    )  # fmt: skip
    recorder.phase("read")
    assert recorder.events == 1
    assert recorder.hooks_s > 0
    assert recorder.event_us_median is not None


@pytest.mark.parametrize("bytes_before_the_end", [800, 48], ids=["in the middle", "where the ring wraps around"])
def test_a_release_that_strikes_while_an_event_is_being_written_loses_neither(
    bytes_before_the_end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector runs callbacks between any two steps of the writer, in the same thread."""
    # given a ring that is empty, with so much room before it wraps around
    filler = Event(0, EventKind.REPORT, name="f" * 500)
    recording = Recording(len(pack(filler)) + bytes_before_the_end)
    recording.writer.put(filler)
    recording.events()
    recorder, struck = recording.recorder, []

    def struck_while_packing(event: Event) -> bytes:
        if not struck:
            struck.append("now")
            recorder.release(7, HEAP, "gone", BIG)
            recorder.phase("read")  # which has it written
        return pack(event)

    monkeypatch.setattr("meminspect.capture.ring.pack", struck_while_packing)
    recorder.report("interrupted", {})
    recorder.report("after", {})
    assert struck
    assert sorted(event.name for event in recording.events()) == ["after", "gone", "interrupted", "read"]
    assert recording.writer.lost == 0
