"""Runs in turn, beside the screen. Sessions here are puppets: they end when they are told to."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from meminspect.engine.spec import RunSpec
from meminspect.errors import CaptureError, RunError
from meminspect.tui.runs import Runs

PATIENCE_S = 10


class Stage:
    """What sessions have been begun, in this order, and what the next ones do."""

    def __init__(self) -> None:
        self.sessions: list[Puppet] = []
        self.arrivals: queue.Queue[Puppet] = queue.Queue()
        self.refuse: dict[str, BaseException] = {}  # by strategy: what its session raises instead of beginning
        self.may_begin = threading.Event()
        self.may_begin.set()

    def begin(self, spec: RunSpec, standby: Any) -> Puppet:
        """As `Session` is called."""
        session = Puppet(spec, standby)
        self.sessions.append(session)
        self.arrivals.put(session)
        assert self.may_begin.wait(PATIENCE_S)
        if spec.strategy in self.refuse:
            raise self.refuse[spec.strategy]
        return session

    def next(self) -> Puppet:
        """The next session that begins."""
        return self.arrivals.get(timeout=PATIENCE_S)

    def strategies(self) -> list[str]:
        return [session.spec.strategy for session in self.sessions]


class Puppet:
    def __init__(self, spec: RunSpec, standby: Any) -> None:
        self.spec = spec
        self.standby = standby
        self.cancelled = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def end(self, error: BaseException | None = None) -> None:
        self._error = error
        self._ended.set()

    def cancel(self) -> None:
        self.cancelled += 1
        self._ended.set()

    def wait(self) -> None:
        assert self._ended.wait(PATIENCE_S), "nobody has ended it"
        if self._error is not None:
            raise self._error


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr("meminspect.tui.runs.Session", made.begin)
    return made


def specs(*strategies: str) -> list[RunSpec]:
    return [RunSpec(Path("model"), strategy, Path(f"{strategy}.meminspect")) for strategy in strategies]


def finish(runs: Runs) -> None:
    runs.join(PATIENCE_S)
    assert not runs.is_alive()


def test_given_several_specs_then_each_begins_when_the_one_before_has_ended(stage: Stage) -> None:
    runs = Runs(specs("a", "b", "c"))
    runs.start()
    for strategy in "abc":
        session = stage.next()
        assert session.spec.strategy == strategy
        assert len(stage.sessions) == "abc".index(strategy) + 1, "nothing else is under way"
        assert runs.is_alive()
        session.end()
    finish(runs)
    assert (runs.errors, runs.cancelled) == ({}, False)
    assert [session.cancelled for session in stage.sessions] == [0, 0, 0]


def test_given_nothing_to_run_then_it_ends(stage: Stage) -> None:
    runs = Runs([])
    runs.start()
    finish(runs)
    runs.cancel()
    assert stage.sessions == []


def test_given_a_cancel_before_it_starts_then_nothing_begins(stage: Stage) -> None:
    runs = Runs(specs("a", "b"))
    runs.cancel()
    runs.start()
    finish(runs)
    assert (stage.sessions, runs.cancelled, runs.errors) == ([], True, {})


def test_given_a_cancel_meanwhile_then_the_present_run_ends_and_no_other_begins(stage: Stage) -> None:
    runs = Runs(specs("a", "b", "c"))
    runs.start()
    stage.next().end()
    second = stage.next()
    # when
    runs.cancel()
    # then
    finish(runs)
    assert second.cancelled == 1
    assert (stage.strategies(), runs.cancelled, runs.errors) == (["a", "b"], True, {})


def test_given_a_cancel_while_a_session_is_being_begun_then_it_finds_it(stage: Stage) -> None:
    # given a session whose processes are just being started
    stage.may_begin.clear()
    runs = Runs(specs("a", "b"))
    runs.start()
    session = stage.next()
    # when somebody cancels, and only then it has begun
    canceller = threading.Thread(target=runs.cancel, daemon=True)
    canceller.start()
    stage.may_begin.set()
    canceller.join(PATIENCE_S)
    # then
    finish(runs)
    assert session.cancelled == 1
    assert stage.strategies() == ["a"]


def test_given_a_cancel_afterwards_then_it_harms_nothing(stage: Stage) -> None:
    runs = Runs(specs("a"))
    runs.start()
    stage.next().end()
    finish(runs)
    runs.cancel()
    runs.cancel()
    assert (stage.strategies(), runs.cancelled, runs.errors) == (["a"], True, {})


@pytest.mark.parametrize("error", [CaptureError("no capture"), RunError("no end"), ValueError("a defect")])
def test_given_one_that_goes_wrong_then_its_error_is_kept_and_the_next_begins(stage: Stage, error: Exception) -> None:
    runs = Runs(specs("a", "b"))
    runs.start()
    stage.next().end(error)
    stage.next().end()
    finish(runs)
    assert runs.errors == {Path("a.meminspect"): error}


def test_given_one_that_cannot_even_begin_then_the_next_does(stage: Stage) -> None:
    stage.refuse["a"] = error = RunError("cannot start the supervisor")
    runs = Runs(specs("a", "b"))
    runs.start()
    stage.next()
    stage.next().end()
    finish(runs)
    assert runs.errors == {Path("a.meminspect"): error}
    assert stage.strategies() == ["a", "b"]


def test_given_a_worker_that_waits_then_it_is_for_the_first_run_alone(stage: Stage) -> None:
    standby: Any = object()
    runs = Runs(specs("a", "b"), standby)
    runs.start()
    stage.next().end()
    stage.next().end()
    finish(runs)
    assert [session.standby for session in stage.sessions] == [standby, None]


def test_given_a_first_run_that_could_not_begin_then_its_worker_is_not_used_twice(stage: Stage) -> None:
    stage.refuse["a"] = RunError("no")
    standby: Any = object()
    runs = Runs(specs("a", "b"), standby)
    runs.start()
    stage.next()
    stage.next().end()
    finish(runs)
    assert [session.standby for session in stage.sessions] == [standby, None]


def test_the_app_may_end_without_waiting_for_it() -> None:
    assert Runs([]).daemon
