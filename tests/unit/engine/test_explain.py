"""Every kind of death in a sentence, from states that no worker was ever in."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading, Sample
from meminspect.engine.cancellation import Ending
from meminspect.engine.ceiling import Ceiling
from meminspect.engine.explain import Circumstances, explain, explain_lost
from meminspect.engine.oom import Evidence
from meminspect.engine.worker_state import InUse, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB, GIB = 1 << 20, 1 << 30
BASELINE = Reading(200 * MIB, 80 * MIB, 30 * MIB, 310 * MIB)
LIMIT = Ceiling("limit", 3 * GIB // 2)
CGROUP = Ceiling("cgroup", 4 * GIB, "/batch/job-7")
RAM = Ceiling("ram", 16 * GIB, available_bytes=12 * GIB)
PLACE = "in phase 'read' at layers.1.wq.weight"
USE = "with 1.00 GiB heap and 5.00 MiB file in use above the baseline"
NAMED = Evidence("the kernel's log names it")
COUNTED = Evidence("1 OOM kill was counted in its cgroup", None, certain=False, where="its cgroup")
NO_KILL = "no OOM kill was counted, so somebody else sent it (a user, a batch system, earlyoom or systemd-oomd)"


def a_state(*, baseline: bool = True, **reports: object) -> WorkerState:
    """In the middle of reading a tensor, and seen from outside once more since it last told what it holds."""
    state = WorkerState()
    state.sampled(Sample(1, 190 * MIB, 80 * MIB, 30 * MIB, MIB, 300 * MIB))
    if baseline:
        state.apply(Event(2, EventKind.READING, reading=BASELINE, name="baseline"))
    state.apply(Event(3, EventKind.PHASE, name="read"))
    for id_, name in enumerate(("layers.0.wq.weight", "layers.1.wq.weight")):
        state.apply(Event(4, EventKind.BEGIN, Operation.MATERIALISE, Pool.HEAP, id_, GIB, name=name))
    state.apply(Event(5, EventKind.END, Operation.MATERIALISE, Pool.HEAP, 0, GIB, name="layers.0.wq.weight"))
    state.sampled(Sample(6, GIB + 200 * MIB, 85 * MIB, 30 * MIB, 3 * MIB, 2 * GIB))
    for name, value in reports.items():
        state.apply(Event(7, EventKind.REPORT, name=name, detail=json.dumps(value)))
    return state


def a_failure(kind: str, type_: str, message: str) -> dict[str, dict[str, str]]:
    return {"failure": {"kind": kind, "type": type_, "message": message}}


IN_USE = InUse(GIB + 5 * MIB, GIB, 5 * MIB, 0, 2 * MIB)

DEATHS: dict[str, tuple[int, Mapping[str, Any], Circumstances, str, str]] = {
    "OOM kill, by the log": (
        -signal.SIGKILL, {}, Circumstances(evidence=NAMED, ceiling=LIMIT),
        "oom_killed", f"killed by the kernel's OOM killer at its limit of 1.50 GiB {PLACE}, {USE}",
    ),
    "OOM kill, by a counter that others share": (
        -signal.SIGKILL, {}, Circumstances(evidence=COUNTED, ceiling=CGROUP), "oom_killed",
        "killed as the kernel's OOM killer took a process of its cgroup at the limit of 4.00 GiB of the cgroup "
        f"/batch/job-7 {PLACE}, {USE}",
    ),
    "allocation failure of torch": (
        1, a_failure("out_of_memory", "RuntimeError", "DefaultCPUAllocator: you tried to allocate 536870912 bytes."),
        Circumstances(ceiling=Ceiling("ulimit", GIB, "ulimit -d")), "out_of_memory",
        "an allocation of 512.00 MiB failed under the limit of 1.00 GiB that ulimit -d sets (RuntimeError) "
        f"{PLACE}, {USE}",
    ),
    "allocation failure of Python": (
        1, a_failure("out_of_memory", "MemoryError", ""), Circumstances(ceiling=RAM), "out_of_memory",
        "an allocation failed under the 16.00 GiB of RAM that the machine has, 12.00 GiB of it free before the run "
        f"(MemoryError) {PLACE}, {USE}",
    ),
    "allocation failure without a size": (
        1, a_failure("out_of_memory", "OSError", "Cannot allocate memory"), Circumstances(), "out_of_memory",
        f"an allocation failed (OSError: Cannot allocate memory) {PLACE}, {USE}",
    ),
    "exception": (
        1, a_failure("failed", "KeyError", "'wq'"), Circumstances(ceiling=RAM),
        "failed", f"KeyError: 'wq' {PLACE}, {USE}",
    ),
    "exit without a word": (
        3, {}, Circumstances(ceiling=RAM),
        "failed", f"the worker ended with exit status 3 before it was done {PLACE}, {USE}",
    ),
    "signal": (
        -signal.SIGSEGV, {}, Circumstances(ceiling=RAM), "signalled", f"killed by SIGSEGV {PLACE}, {USE}",
    ),
    "a signal without a name": (
        -63, {}, Circumstances(), "signalled", f"killed by signal 63 {PLACE}, {USE}",
    ),
    "SIGKILL of somebody": (
        -signal.SIGKILL, {}, Circumstances(ceiling=LIMIT), "signalled",
        f"killed by SIGKILL {PLACE}, {USE}, under its limit of 1.50 GiB; {NO_KILL}",
    ),
    "SIGKILL where nothing counts": (
        -signal.SIGKILL, {}, Circumstances(can_tell=False), "signalled",
        f"killed by SIGKILL {PLACE}, {USE}; neither the kernel's log nor a counter of OOM kills can be read here, so "
        "who sent it is unknown",
    ),
    "time-out": (
        -signal.SIGKILL, {}, Circumstances(Ending.TIMED_OUT, ceiling=CGROUP, timeout_s=90.0), "timed_out",
        f"timed out after 1:30 min {PLACE}, {USE}, under the limit of 4.00 GiB of the cgroup /batch/job-7",
    ),
    "cancelled": (
        -signal.SIGKILL, {}, Circumstances(Ending.CANCELLED, ceiling=RAM), "cancelled", f"cancelled {PLACE}, {USE}",
    ),
    "parent gone": (
        -signal.SIGKILL, {}, Circumstances(Ending.ABANDONED), "cancelled",
        f"cancelled {PLACE}, {USE}: whoever had started it is gone (the command or the app ended)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("death", DEATHS)
def test_every_death_names_cause_place_use_and_limit(death: str) -> None:
    status, reports, known, outcome, message = DEATHS[death]

    told = explain(status, a_state(**reports), known)

    assert (told["outcome"], told["message"]) == (outcome, message)
    assert told["died_at"] == {"phase": "read", "tensor": "layers.1.wq.weight"}
    assert told["in_use"] == IN_USE._asdict()
    assert told["ceiling"] == (None if known.ceiling is None else known.ceiling.document())
    assert told["evidence"] == (None if known.evidence is None else known.evidence.text)
    assert told["exit_status"] == status


@pytest.mark.parametrize(
    ("status", "reports", "known", "cause"),
    [
        (-signal.SIGKILL, {}, Circumstances(evidence=NAMED, ceiling=LIMIT),
         "killed by the kernel's OOM killer at its limit of 1.50 GiB"),
        (-signal.SIGKILL, {}, Circumstances(), f"killed by SIGKILL; {NO_KILL}"),
        (-signal.SIGBUS, {}, Circumstances(), "killed by SIGBUS"),
        (1, a_failure("failed", "OSError", "gone"), Circumstances(), "OSError: gone"),
        (-signal.SIGKILL, {}, Circumstances(Ending.TIMED_OUT, timeout_s=2.0), "timed out after 2.00 s"),
    ],
    ids=["OOM kill", "SIGKILL", "signal", "exception", "time-out"],
)  # fmt: skip
def test_given_a_load_that_was_over_then_its_death_in_the_verification_is_ours(
    status: int, reports: Mapping[str, Any], known: Circumstances, cause: str
) -> None:
    told = explain(status, a_state(resident={}, **reports), known)

    assert told["outcome"] == "completed"
    assert told["message"] == (
        "the load was over; the verification after it, which is meminspect's doing and not the strategy's, did not "
        f"finish: {cause}"
    )
    assert told["died_at"] is told["in_use"] is None


def test_given_a_load_that_was_over_then_who_cancels_it_is_told_so_all_the_same() -> None:
    assert explain(-9, a_state(resident={}), Circumstances(Ending.CANCELLED))["outcome"] == "cancelled"


def test_given_a_run_that_was_finished_then_nothing_that_comes_after_is_a_death() -> None:
    told = explain(-9, a_state(resident={}, finished={}), Circumstances(Ending.TIMED_OUT, timeout_s=1.0))
    assert (told["outcome"], told["message"], told["died_at"]) == ("completed", "", None)


def test_given_a_death_before_the_baseline_then_its_last_rss_stands_for_what_was_in_use() -> None:
    told = explain(-signal.SIGTERM, a_state(baseline=False), Circumstances())
    assert told["in_use"] is None
    assert told["message"] == f"killed by SIGTERM {PLACE}, last seen at 1.31 GiB RSS"


def test_given_a_worker_that_nothing_was_heard_of_then_the_signal_is_all_that_is_told() -> None:
    told = explain(-signal.SIGTERM, WorkerState(), Circumstances())
    assert (told["message"], told["died_at"]) == ("killed by SIGTERM", {"phase": None, "tensor": None})


def test_given_what_the_kernel_saw_at_the_end_then_it_stands_for_the_last_sample() -> None:
    held = Reading(2 * GIB + 200 * MIB, 0, 30 * MIB, 0).resident
    told = explain(-9, a_state(), Circumstances(evidence=NAMED, ceiling=LIMIT, held=held))
    assert told["message"].endswith("with 2.00 GiB heap and 0 B file in use above the baseline")
    assert told["in_use"]["file_bytes"] == -80 * MIB


def test_given_last_words_of_a_worker_that_raised_nothing_then_they_are_quoted() -> None:
    state = a_state()
    state.last_words = "no \x1b[31m such interpreter"
    told = explain(127, state, Circumstances())
    assert told["message"].startswith(
        "the worker ended with exit status 127 before it was done, saying 'no \\x1b[31m such interpreter' in phase"
    )


def test_given_a_supervisor_that_is_gone_then_place_use_and_limit_are_those_of_the_capture() -> None:
    told = explain_lost("the supervisor was killed", a_state(), LIMIT)
    assert (told["outcome"], told["message"]) == (
        "failed", f"the supervisor was killed {PLACE}, {USE}, under its limit of 1.50 GiB",
    )  # fmt: skip
    assert told["died_at"] == {"phase": "read", "tensor": "layers.1.wq.weight"}
    assert told["in_use"] == IN_USE._asdict()

    over = explain_lost("the supervisor was killed", a_state(resident={}), LIMIT)
    assert over["outcome"] == "completed"
    assert over["message"].endswith("did not finish: the supervisor was killed")


def test_where_the_system_tells_no_pools_what_was_in_use_is_one_figure() -> None:
    state = WorkerState()
    state.sampled(Sample(1, None, None, None, None, total_bytes=100 * MIB))
    state.apply(Event(2, EventKind.READING, name="baseline"))
    state.sampled(Sample(3, None, None, None, None, total_bytes=100 * MIB + GIB))

    told = explain(-signal.SIGKILL, state, Circumstances(can_tell=False))

    assert told["in_use"] == InUse(GIB, None, None, None, None)._asdict()
    assert ", with 1.00 GiB in use above the baseline" in told["message"]
