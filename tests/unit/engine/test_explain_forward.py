"""A first forward pass that goes wrong leaves a load that completed."""

from __future__ import annotations

import json
import signal

from meminspect.capture.records import Event, EventKind
from meminspect.engine.explain import Circumstances, explain
from meminspect.engine.worker_state import WorkerState


def state(phase: str, **reports: object) -> WorkerState:
    made = WorkerState()
    made.apply(Event(1, EventKind.PHASE, name=phase))
    for name, value in reports.items():
        made.apply(Event(2, EventKind.REPORT, name=name, detail=json.dumps(value)))
    return made


def outcome(status: int, at: WorkerState) -> tuple[str, str]:
    said = explain(status, at, Circumstances())
    return said["outcome"], said["message"]


def test_given_a_death_in_the_forward_pass_then_the_load_completed_and_the_message_says_where_it_was() -> None:
    kind, message = outcome(-signal.SIGSEGV, state("first forward", resident={}))
    assert kind == "completed"
    assert message == "the load was over; the first forward pass after it did not finish: killed by SIGSEGV"


def test_given_a_death_in_the_verification_then_it_is_said_of_that() -> None:
    kind, message = outcome(-signal.SIGSEGV, state("verify", resident={}, forward={"s": 1.0}))
    assert kind == "completed"
    assert "the verification after it" in message


def test_given_a_pass_that_raised_then_its_error_is_the_message_of_a_completed_run() -> None:
    error = "RuntimeError: \"addmm\" not implemented for 'Half'"
    kind, message = outcome(0, state("verify", resident={}, forward={"error": error}, finished={}))
    assert (kind, message) == ("completed", f"the first forward pass failed: {error}")


def test_given_a_pass_that_went_well_then_there_is_nothing_to_say() -> None:
    assert outcome(0, state("verify", resident={}, forward={"s": 1.0}, finished={})) == ("completed", "")
