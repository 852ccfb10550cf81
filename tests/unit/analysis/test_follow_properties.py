"""Whatever a run does, however its capture is written and read, a follower's figures are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from run_events import MS, baseline, begin, end, named, phase, reading, report, sample

from meminspect.analysis import follow
from meminspect.analysis.follow import Held, RunFollower, RunView
from meminspect.analysis.reduction import Column
from meminspect.analysis.run import run_document
from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading, Sample
from meminspect.capture.store import CaptureReader, CaptureWriter

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = {"strategy": "naive", "repeat_index": 1, "repeat_of": 1}
COMPLETED = {"outcome": "completed", "message": "", "died_at": None, "exit_status": 0}
KILLED = {"outcome": "oom_killed", "message": "killed", "died_at": {"phase": "read", "tensor": "a"}, "exit_status": -9}


class Written(NamedTuple):
    """What a run leaves, in the order in which it came about."""

    records: list[Event | Sample]
    outcome: dict[str, Any]


class Machine:
    """A process's books as the kernel keeps them; what worker and supervisor read off them is recorded."""

    def __init__(self, *, lets_reset: bool) -> None:
        self.records: list[Event | Sample] = []
        self._lets_reset = lets_reset
        self._pools = [0, 0, 0]
        self._mark = 700  # of the warm-up
        self._t_ms = 1

    def read(self) -> Reading:
        self._t_ms += 1
        return reading(*self._pools, mark=self._mark)

    def grow(self, pool: int, nbytes: int) -> None:
        self._pools[pool] += nbytes
        self._mark = max(self._mark, sum(self._pools))

    def spike(self, nbytes: int) -> None:
        self._mark = max(self._mark, sum(self._pools) + nbytes)

    def sampled(self) -> None:
        self.records.append(sample(self._t_ms, self.read()))

    def happened(self, name: str, *, reset: bool) -> None:
        """The worker reads the mark before every reset."""
        self.records.append(named(self._t_ms, name, self.read()))
        if reset and self._lets_reset:
            self._mark = sum(self._pools)

    def phase(self, name: str) -> None:
        self.records.append(phase(self._t_ms, name, self.read()))

    def tensor(self, id_: int) -> None:
        begun = begin(self._t_ms, Operation.MATERIALISE, Pool.HEAP, id_, f"w{id_}", 8)
        self.records += [begun, end(self._t_ms + 0.5, begun)]
        self._t_ms += 1


amounts = st.integers(-50, 300)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 2), amounts),
        st.tuples(st.just("spike"), amounts),
        st.tuples(st.just("sampled")),
        st.tuples(st.just("happened"), st.booleans()),
        st.tuples(st.just("phase"), st.sampled_from(["read", "copy"])),
        st.tuples(st.just("tensor"), st.integers(1, 99)),
    ),
    max_size=14,
)


def do(machine: Machine, steps: list[Any]) -> None:
    for name, *arguments in steps:
        if name == "happened":
            machine.happened("between", reset=arguments[0])
        else:
            getattr(machine, name)(*arguments)


@st.composite
def runs(draw: st.DrawFn) -> Written:
    lets_reset = draw(st.booleans())
    machine = Machine(lets_reset=lets_reset)
    do(machine, draw(actions))
    if not draw(st.booleans()):
        return Written(machine.records, KILLED)
    machine.happened("baseline", reset=True)
    last = machine.records[-1]
    machine.records.append(report(last.t_ns / MS + 0.25, "baseline", f'{{"resets": {str(lets_reset).lower()}}}'))
    do(machine, draw(actions))
    if not draw(st.booleans()):
        return Written(machine.records, KILLED)
    machine.happened("resident", reset=True)
    do(machine, draw(actions))
    return Written(machine.records, COMPLETED)


def in_one_go(folder: Path, written: Written) -> tuple[RunView, dict[str, Any]]:
    """What a finished capture shows, and its document."""
    path = folder / "whole.meminspect"
    writer = CaptureWriter(path, 0)
    commit(writer, written.records)
    writer.fact("outcome", written.outcome)
    writer.close()
    with RunFollower(path) as follower, CaptureReader(path) as capture:
        view, behind = follower.poll()
        assert not behind
        return view, run_document(capture)


def commit(writer: CaptureWriter, records: list[Event | Sample]) -> None:
    """As the supervisor does: what the worker reports becomes a fact as well."""
    events = [record for record in records if isinstance(record, Event)]
    for event in events:
        if event.kind is EventKind.REPORT:
            writer.fact(event.name, json.loads(event.detail))
    writer.append([record for record in records if isinstance(record, Sample)], events, [])


def told(view: RunView) -> dict[str, Any]:
    """Everything that a view says, but where it is from."""
    fields = {field.name: getattr(view, field.name) for field in dataclasses.fields(view)}
    del fields["capture"]
    return {**fields, "result": {**fields["result"], "capture": None}} if fields["result"] else fields


def finished(follower: RunFollower, batch: int, look: Callable[[RunView], None]) -> RunView:
    """Poll until it has ended, in batches of so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "_BATCH", batch)
        for _ in range(400):
            view, _ = follower.poll()
            look(view)
            if view.ended:
                return view
    raise AssertionError("it never ended")


# A sample of the load, and one from after it, while events are still to be read.
_LONG = Machine(lets_reset=True)
_LONG.happened("baseline", reset=True)
do(_LONG, [("grow", 0, 5), ("sampled",), ("tensor", 1), ("tensor", 2), ("tensor", 3)])
_LONG.happened("resident", reset=True)
do(_LONG, [("grow", 0, 900), ("sampled",), ("sampled",)])


@settings(deadline=None, max_examples=75)
@given(runs())
@example(Written(_LONG.records, COMPLETED))
def test_a_finished_capture_shows_the_peaks_of_its_document(written: Written) -> None:
    with TemporaryDirectory() as folder:
        view, document = in_one_go(Path(folder), written)
    assert view.result is not None
    assert {**view.result, "capture": None} == {**document, "capture": None}
    known = view.baseline is not None
    assert (view.peaks if known else None) == (
        Held(*(document["peak"][name] for name in Held._fields[:3]))
        if document["peak"]["rss_bytes"] is not None
        else None
    )
    assert (view.peak_bytes if known else None) == document["peak"]["rss_bytes"]


@settings(deadline=None, max_examples=75)
@given(runs(), st.integers(1, 9))
@example(Written(_LONG.records, COMPLETED), 2)
def test_in_batches_it_shows_what_it_shows_in_one_go_and_never_more(written: Written, batch: int) -> None:
    with TemporaryDirectory() as folder:
        whole, _ = in_one_go(Path(folder), written)

        def look(view: RunView) -> None:
            assert view.peak_bytes <= whole.peak_bytes
            assert view.series.end_ns <= whole.series.end_ns

        with RunFollower(whole.capture) as follower:
            assert told(finished(follower, batch, look)) == told(whole)


@settings(deadline=None, max_examples=75)
@given(runs(), st.data())
def test_commits_at_any_moment_even_between_two_reads_of_one_look_lose_nothing(
    written: Written, data: st.DataObject
) -> None:
    # given a capture that is written in pieces
    edges = sorted(data.draw(st.sets(st.integers(0, len(written.records)), max_size=6), label="edges"))
    pieces = [
        written.records[first:last] for first, last in zip([0, *edges], [*edges, len(written.records)], strict=True)
    ]
    with TemporaryDirectory() as folder:
        whole, _ = in_one_go(Path(folder), written)
        path = Path(folder) / "growing.meminspect"
        writer = CaptureWriter(path, 0)

        def another_commit() -> None:
            if pieces:
                commit(writer, pieces.pop(0))
            else:
                writer.fact("outcome", written.outcome)

        class Interrupted(CaptureReader):
            """Each of its reads may have a commit right before it."""

            def _rows(self, query: str, *values: object) -> list[Any]:
                if data.draw(st.booleans()):
                    another_commit()
                return super()._rows(query, *values)

        def look(view: RunView) -> None:
            assert view.peak_bytes <= whole.peak_bytes, "something that is no part of the load was taken for it"
            if not view.ended:
                another_commit()

        # when somebody follows it meanwhile
        with pytest.MonkeyPatch.context() as patch, RunFollower(path) as follower:
            patch.setattr(follow, "CaptureReader", Interrupted)
            view = finished(follower, data.draw(st.integers(1, 9)), look)
        # then
        assert told(view) == told(whole)
        writer.close()


def test_given_a_capture_of_more_rows_than_a_batch_then_each_look_says_that_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_BATCH", 4)
    view, behinds = None, []
    with RunFollower(more_than_a_batch(tmp_path)) as follower:
        for _ in range(3):
            view, behind = follower.poll()
            behinds.append((behind, view.ended))
    assert behinds == [(True, False), (True, False), (False, True)]
    assert view is not None
    assert view.series.columns(1, 5 * MS) == [Column(40, 0, 0, 0, None)]


def more_than_a_batch(folder: Path) -> Path:
    """Nine events and a sample for each."""
    records: list[Event | Sample] = [baseline(10)]
    for t_ms in range(11, 15):
        records += [phase(t_ms, "read"), sample(t_ms + 0.5, reading(heap=10 * (t_ms - 10)))]
    records += [phase(14.6, "copy"), phase(14.7, "read"), phase(14.8, "copy"), phase(14.9, "read")]
    path = folder / "run.meminspect"
    writer = CaptureWriter(path, 0)
    commit(writer, records)
    writer.fact("outcome", KILLED)
    writer.close()
    return path
