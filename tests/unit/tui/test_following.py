"""Captures followed beside the screen. What `time.sleep` waits for is what happens in it: the next step of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from meminspect.analysis import follow
from meminspect.capture.records import Event, EventKind
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError
from meminspect.tui.following import Following

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMPLETED = {"outcome": "completed", "message": "", "died_at": None}


class Clock:
    """Does something at every look but the last, and knows how many there were."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.sleeps = 0
        self._steps = list(steps)

    def sleep(self, _: float) -> None:
        self.sleeps += 1
        assert self.sleeps < 100, "it follows for ever"
        if self._steps:
            self._steps.pop(0)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("meminspect.tui.following.time", made)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.meminspect"


@pytest.fixture
def writer(path: Path) -> Iterator[CaptureWriter]:
    made = CaptureWriter(path, 0)
    yield made
    made.close()


def phases(writer: CaptureWriter, *names: str) -> None:
    writer.append([], [Event(1, EventKind.PHASE, name=name) for name in names], [])


def then(clock: Clock, *steps: Callable[[], object]) -> None:
    clock._steps = list(steps)


def never() -> bool:
    return False


def always() -> bool:
    return True


def seen(following: Following) -> list[str]:
    return [view.phase for view in following.views]


def test_before_it_has_looked_there_is_a_view_of_nothing_for_each(path: Path) -> None:
    following = Following([path, path.with_name("b.meminspect")])
    assert [view.capture for view in following.views] == list(following.captures)
    assert [view.facts for view in following.views] == [{}, {}]


def test_given_captures_that_grow_one_after_the_other_then_it_reads_until_all_have_ended(
    path: Path, clock: Clock
) -> None:
    # given two that do not exist yet
    second = path.with_name("second.meminspect")
    writers: list[CaptureWriter] = []
    following = Following([path, second])
    looks: list[list[str]] = []

    def first_begins() -> None:
        writers.append(CaptureWriter(path, 0))
        phases(writers[0], "read")

    def second_begins() -> None:
        looks.append(seen(following))
        writers[0].fact("outcome", COMPLETED)
        writers.append(CaptureWriter(second, 0))
        phases(writers[1], "build")

    def all_end() -> None:
        looks.append(seen(following))
        writers[1].fact("outcome", COMPLETED)

    then(clock, first_begins, second_begins, all_end)
    # when
    following.run(never, always)
    # then
    assert looks == [["read", ""], ["read", "build"]]
    assert [view.ended for view in following.views] == [True, True]
    assert clock.sleeps == 3
    for writer in writers:
        writer.close()


def test_given_a_wish_to_stop_then_it_looks_no_more(path: Path, writer: CaptureWriter, clock: Clock) -> None:
    phases(writer, "read")
    following = Following([path])
    following.run(always, always)
    assert seen(following) == [""]

    following.run(lambda: clock.sleeps == 2, always)
    assert seen(following) == ["read"]
    assert clock.sleeps == 2


def test_given_writers_that_end_then_it_takes_a_last_look(path: Path, writer: CaptureWriter, clock: Clock) -> None:
    """What is written just before they end must be seen: the question comes before the look."""
    following = Following([path])

    def written() -> bool:
        phases(writer, "verify")
        writer.fact("outcome", COMPLETED)
        return False

    following.run(never, written)
    assert seen(following) == ["verify"]
    assert following.views[0].ended
    assert clock.sleeps == 0


def test_given_writers_that_end_without_an_outcome_or_a_capture_then_it_ends_all_the_same(
    path: Path, writer: CaptureWriter, clock: Clock
) -> None:
    phases(writer, "read")
    following = Following([path, path.with_name("never-begun.meminspect")])
    answers = [True, True, False]
    following.run(never, lambda: answers.pop(0))
    assert seen(following) == ["read", ""]
    assert [view.ended for view in following.views] == [False, False]
    assert (answers, clock.sleeps) == ([], 2)


def test_given_more_than_one_look_takes_in_then_the_last_look_goes_on_to_its_end_without_rest(
    path: Path, writer: CaptureWriter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_BATCH", 2)
    phases(writer, "import", "warm-up", "build", "read", "copy")
    following = Following([path])
    following.run(never, never)
    assert seen(following) == ["copy"]
    assert clock.sleeps == 0


def test_a_view_stays_as_it_was_taken(path: Path, writer: CaptureWriter, clock: Clock) -> None:
    following = Following([path])
    taken: list[tuple[Any, ...]] = []

    def step() -> None:
        taken.append(following.views)
        phases(writer, "read")
        writer.fact("outcome", COMPLETED)

    then(clock, step)
    following.run(never, always)
    assert taken[0] is not following.views
    assert (taken[0][0].phase, following.views[0].phase) == ("", "read")


# --- captures of before


def abandoned(path: Path, supervisor_pid: int | None) -> Path:
    """A capture without an end, whose writer is gone: its files without the process."""
    left = path.with_name("left.meminspect")
    writer = CaptureWriter(path, 0)
    writer.fact("spec", {"strategy": "naive", "supervisor_pid": supervisor_pid})
    phases(writer, "read")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{left}{suffix}")
    writer.close()
    return left


def pid_of_somebody_gone() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("known", [True, False])
def test_given_a_saved_capture_whose_supervisor_is_gone_then_it_is_given_its_end(
    path: Path, clock: Clock, *, known: bool
) -> None:
    left = abandoned(path, pid_of_somebody_gone() if known else None)
    following = Following([left])
    following.run(never, None)
    view = following.views[0]
    assert view.outcome is not None
    assert (view.outcome["outcome"], view.phase) == ("failed", "read")
    assert view.outcome["message"] == "the supervisor was killed, and the worker ended with it in phase 'read'"
    assert clock.sleeps == 0
    with CaptureReader(left) as capture:
        assert capture.fact("outcome") == view.outcome, "whoever opens it later sees the same"


def test_given_a_process_that_has_taken_its_number_then_it_is_not_taken_for_the_supervisor(
    path: Path, clock: Clock
) -> None:
    following = Following([abandoned(path, os.getpid())])
    following.run(never, None)
    assert following.views[0].ended
    assert clock.sleeps == 0


def test_given_a_saved_capture_that_another_command_still_writes_then_it_is_followed(path: Path, clock: Clock) -> None:
    # given a process that calls itself a supervisor, for as long as its standard input is open
    command = [sys.executable, "-c", "input()", "meminspect.engine.supervisor"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        left = abandoned(path, process.pid)
        following = Following([left])
        following.run(lambda: clock.sleeps == 3, None)
        assert process.stdin is not None
        process.stdin.write(b"\n")
    assert (seen(following), following.views[0].outcome) == (["read"], None)


@pytest.fixture
def somebody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is ours to write; root, who may run this, could write all the same."""
    monkeypatch.setattr("meminspect.capture.store.os.access", lambda *_: False)


@pytest.mark.usefixtures("somebody_else_s")
def test_given_one_that_is_not_ours_and_whose_supervisor_is_gone_then_it_ends_for_us_alone(
    path: Path, clock: Clock
) -> None:
    left = abandoned(path, pid_of_somebody_gone())
    before = left.read_bytes()
    following = Following([left])
    following.run(never, None)
    assert following.views[0].outcome is not None
    assert following.views[0].result is not None
    assert (following.views[0].result["outcome"], following.views[0].phase) == ("failed", "read")
    assert clock.sleeps == 0
    assert left.read_bytes() == before


@pytest.mark.usefixtures("somebody_else_s")
def test_given_one_that_is_not_ours_and_that_grows_then_what_comes_is_seen(
    path: Path, writer: CaptureWriter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.engine.session._alive", lambda _: True)
    phases(writer, "build")
    following = Following([path])

    def goes_on() -> None:
        phases(writer, "read")
        writer.fact("outcome", COMPLETED)

    then(clock, goes_on)
    following.run(never, None)
    assert (seen(following), following.views[0].outcome) == (["read"], COMPLETED)


@pytest.mark.usefixtures("clock")
def test_given_a_finished_capture_then_it_is_shown_as_it_is(path: Path) -> None:
    writer = CaptureWriter(path, 0)
    writer.fact("outcome", COMPLETED)
    writer.close()
    before = path.read_bytes()
    following = Following([path])
    following.run(never, None)
    assert following.views[0].outcome == COMPLETED
    assert path.read_bytes() == before


@pytest.mark.usefixtures("clock")
def test_given_a_saved_capture_that_cannot_be_read_then_that_is_an_error_and_nothing_stays_open(
    path: Path, tmp_path: Path
) -> None:
    writer = CaptureWriter(path, 0)
    writer.fact("outcome", COMPLETED)
    writer.close()
    with pytest.raises(CaptureError, match="no such capture"):
        Following([path, tmp_path / "absent.meminspect"]).run(never, None)
    assert [file.path for file in psutil.Process().open_files() if str(tmp_path) in file.path] == []


@pytest.mark.usefixtures("clock")
def test_given_a_capture_damaged_meanwhile_then_that_is_an_error_and_nothing_stays_open(
    path: Path, tmp_path: Path
) -> None:
    writer = CaptureWriter(path, 0)
    phases(writer, "read")
    writer._db.execute("UPDATE events SET kind = 'dance'")
    writer.close()
    with pytest.raises(CaptureError, match="damaged"):
        Following([path]).run(never, always)
    assert [file.path for file in psutil.Process().open_files() if str(tmp_path) in file.path] == []
