"""How a worker ended, in the words of the JSON contract and in a sentence."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.engine.cancellation import Ending
from meminspect.engine.device_oom import shortage_of
from meminspect.text import TEXT_LIMIT, shown
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.capture.records import Resident
    from meminspect.engine.ceiling import Ceiling
    from meminspect.engine.device_oom import DeviceShortage
    from meminspect.engine.oom import Evidence
    from meminspect.engine.worker_state import InUse, WorkerState

__all__ = ["GONE", "Circumstances", "explain", "explain_lost", "explain_script", "outcome_document"]

GONE: Final = "whoever had started it is gone (the command or the app ended)"

_FORWARD: Final = "first forward"
_NO_LAST_READING: Final = "the script ended at once, as by os._exit: its last memory is what was sampled before"
_SOMEBODY: Final = (
    "no OOM kill was counted, so somebody else sent it (a user, a batch system, earlyoom or systemd-oomd)"
)
_NOBODY_KNOWS: Final = "neither the kernel's log nor a counter of OOM kills can be read here, so who sent it is unknown"

# What torch's safe unpickler says of a class or function that it does not know (torch/_weights_only_unpickler.py).
_UNTRUSTED: Final = re.compile(r"(?:GLOBAL|Unsupported class) ([\w.]+)")
# torch's CPU allocator (c10/core/impl/alloc_cpu.cpp), its mappings (aten/src/ATen/MapAllocator.cpp), numpy's arrays.
_ASKED: Final = re.compile(r"(?:tried to allocate|unable to mmap) (\d+) bytes")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a worker's end beside what it told itself.

    Args:
        ending: who put an end to it.
        evidence: that the kernel's OOM killer took it, if it ended by SIGKILL.
        can_tell: an OOM kill would have left a trace.
        ceiling: the limit that mattered; None if unknown.
        timeout_s: how long it was allowed to take.
        held: what somebody else saw it hold at the very end.
    """

    ending: Ending = Ending.ITSELF
    evidence: Evidence | None = None
    can_tell: bool = True
    ceiling: Ceiling | None = None
    timeout_s: float | None = None
    held: Resident | None = None


class _Cause(NamedTuple):
    """Why a run ended: in the sentence, `because` comes last."""

    outcome: str
    words: str
    because: str = ""
    device: DeviceShortage | None = None  # that had no memory left


def explain(status: int, state: WorkerState, circumstances: Circumstances) -> dict[str, Any]:
    """The outcome of a run whose worker has been waited for.

    Args:
        status: exit status, negative for a signal.
        state: what the worker's events told.
        circumstances: what else is known.

    Returns:
        As `outcome_document`.
    """
    if "finished" in state.reports:
        return outcome_document("completed", _forward_failed(state), exit_status=status)
    cause = _cause(status, state, circumstances)
    evidence = None if circumstances.evidence is None else circumstances.evidence.text
    if "resident" in state.reports and cause.outcome != "cancelled":  # what comes after is ours
        return outcome_document(
            "completed", _died_afterwards(state, cause.words + cause.because), evidence=evidence, exit_status=status
        )
    in_use = state.in_use(circumstances.held)
    message = cause.words + _place(state) + _use(state, in_use, circumstances.ceiling, cause)
    return outcome_document(
        cause.outcome, f"{message}{cause.because}", died_at={"phase": state.phase or None, "tensor": state.tensor},
        in_use=in_use, ceiling=None if cause.device else circumstances.ceiling, evidence=evidence, exit_status=status,
        device=cause.device,
    )  # fmt: skip


def explain_script(status: int, state: WorkerState, circumstances: Circumstances) -> dict[str, Any]:
    """The outcome of a script of the user's own: as `explain`, but its exit status is for the script to choose."""
    finished = "finished" in state.reports
    by_itself = circumstances.ending is Ending.ITSELF and "failure" not in state.reports
    evidence = None if circumstances.evidence is None else circumstances.evidence.text
    if by_itself and status == 0:
        return outcome_document("completed", "" if finished else _NO_LAST_READING, exit_status=0)
    if by_itself and status > 0 and finished:
        return outcome_document("failed", f"the script ended with exit status {status}", exit_status=status)
    if by_itself and status > 0:
        cause = _Cause("failed", f"the script ended with exit status {status} at once, as by os._exit")
    else:
        cause = _cause(status, state, circumstances)
    in_use = state.in_use(circumstances.held)
    message = cause.words + _place(state) + _use(state, in_use, circumstances.ceiling, cause) + cause.because
    return outcome_document(
        cause.outcome, message, died_at={"phase": state.phase or None, "tensor": state.tensor}, in_use=in_use,
        ceiling=circumstances.ceiling, evidence=evidence, exit_status=status,
    )  # fmt: skip


def explain_lost(message: str, state: WorkerState, ceiling: Ceiling | None) -> dict[str, Any]:
    """The outcome of a run whose supervisor is gone, from what its capture holds."""
    if "resident" in state.reports:
        words = _forward_failed(state) if "finished" in state.reports else _died_afterwards(state, message)
        return outcome_document("completed", words)
    in_use = state.in_use()
    return outcome_document(
        "failed", message + _place(state) + _use(state, in_use, ceiling, None),
        died_at={"phase": state.phase or None, "tensor": state.tensor}, in_use=in_use, ceiling=ceiling,
    )  # fmt: skip


def outcome_document(
    outcome: str,
    message: str,
    *,
    died_at: Mapping[str, object] | None = None,
    in_use: InUse | None = None,
    ceiling: Ceiling | None = None,
    evidence: str | None = None,
    exit_status: int | None = None,
    device: DeviceShortage | None = None,
) -> dict[str, Any]:
    """What a capture keeps of a run's end, under the names of the JSON contract.

    Args:
        outcome: the contract's word.
        message: a sentence, empty where there is nothing to say.
        died_at: phase and tensor, None for a run that completed or never began.
        in_use: what it held above its baseline.
        ceiling: the limit that mattered.
        evidence: of an OOM kill.
        exit_status: the worker's, negative for a signal.
        device: the device that had no memory left.
    """
    return {
        "outcome": outcome,
        "message": message,
        "died_at": died_at,
        "in_use": None if in_use is None else in_use._asdict(),
        "ceiling": None if ceiling is None else ceiling.document(),
        "evidence": evidence,
        "exit_status": exit_status,
        "device": None if device is None else device.document(),
    }


def _forward_failed(state: WorkerState) -> str:
    error = state.reports.get("forward", {}).get("error")
    return f"the first forward pass failed: {error}" if error else ""


def _died_afterwards(state: WorkerState, cause: str) -> str:
    """What kills the worker when the load is over, in a sentence that does not blame the strategy."""
    if state.phase == _FORWARD:
        return f"the load was over; the first forward pass after it did not finish: {cause}"
    return (
        "the load was over; the verification after it, which is meminspect's doing and not the strategy's, "
        f"did not finish: {cause}"
    )


def _cause(status: int, state: WorkerState, known: Circumstances) -> _Cause:
    if known.ending is Ending.CANCELLED:
        return _Cause("cancelled", "cancelled")
    if known.ending is Ending.ABANDONED:
        return _Cause("cancelled", "cancelled", f": {GONE}")
    if known.ending is Ending.TIMED_OUT:
        return _Cause("timed_out", f"timed out after {format_duration(known.timeout_s)}")
    failure = state.reports.get("failure")
    if failure is not None:
        short = shortage_of(failure, state.reports.get("shortage"))
        return _raised(failure, known.ceiling) if short is None else _Cause("out_of_memory", short.words, device=short)
    if status == -signal.SIGKILL:
        return _killed(known)
    if status < 0:
        return _Cause("signalled", f"killed by {_signal_name(-status)}")
    said = f", saying '{shown(state.last_words, 200)}'" if state.last_words else ""
    return _Cause("failed", f"the worker ended with exit status {status} before it was done{said}")


def _raised(failure: Mapping[str, str], ceiling: Ceiling | None) -> _Cause:
    """What the loading code raised."""
    if failure["type"] == "UnpicklingError" and "weights_only" in failure["message"]:
        return _Cause("failed", _untrusted(failure["message"]))
    words, asked = f"{failure['type']}: {failure['message']}".removesuffix(": "), _ASKED.search(failure["message"])
    if failure["kind"] == "out_of_memory":
        under = "" if ceiling is None else f" under {ceiling.words}"
        why = f"an allocation of {format_bytes(int(asked[1]))} failed" if asked else "an allocation failed"
        words = f"{why}{under} ({failure['type']})" if asked or not failure["message"] else f"{why}{under} ({words})"
    return _Cause(failure["kind"], words[:TEXT_LIMIT])


def _untrusted(message: str) -> str:
    """What torch has refused to run, and which option makes it."""
    found = _UNTRUSTED.search(message)
    what = shown(found[1]) if found else "what is in this pickle"
    return f"torch.load does not run {what} with weights_only=True: --trust-pickle makes it, if you trust the file"


def _killed(known: Circumstances) -> _Cause:
    """By SIGKILL, of which nothing says who sent it."""
    evidence = known.evidence
    if evidence is None:
        return _Cause("signalled", "killed by SIGKILL", f"; {_SOMEBODY if known.can_tell else _NOBODY_KNOWS}")
    at = "" if known.ceiling is None else f" at {known.ceiling.words}"
    if evidence.certain:
        return _Cause("oom_killed", f"killed by the kernel's OOM killer{at}")
    return _Cause("oom_killed", f"killed as the kernel's OOM killer took a process of {evidence.where}{at}")


def _place(state: WorkerState) -> str:
    place = f" in phase '{state.phase}'" if state.phase else ""
    return f"{place} at {state.tensor}" if state.tensor else place


def _use(state: WorkerState, in_use: InUse | None, ceiling: Ceiling | None, cause: _Cause | None) -> str:
    """What was in use above the baseline, and the limit where the cause has not named it."""
    named = cause is not None and cause.outcome in ("oom_killed", "out_of_memory")
    under = "" if named or ceiling is None or ceiling.kind == "ram" else f", under {ceiling.words}"
    if in_use is None:
        seen = "" if state.last is None else f", last seen at {format_bytes(state.last.rss_bytes)} RSS"
        return f"{seen}{under}"
    return f", with {_held(in_use)} in use above the baseline{under}"


def _held(in_use: InUse) -> str:
    if in_use.heap_bytes is None or in_use.file_bytes is None:
        return format_bytes(max(0, in_use.rss_bytes))
    heap, file, pinned = (format_bytes(max(0, nbytes or 0)) for nbytes in in_use[1:4])
    more = f", {pinned} pinned" if (in_use.pinned_bytes or 0) > 0 else ""
    return f"{heap} heap and {file} file{more}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
