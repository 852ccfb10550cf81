"""How a worker ended, in the words of the JSON contract and in a sentence."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.engine.recording import WorkerState

__all__ = ["explain"]


def explain(
    status: int,
    state: WorkerState,
    *,
    cancelled: bool,
    oom_kills: int,
    last_rss_bytes: int | None,
    limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The outcome of a run whose worker has been waited for.

    Args:
        status: exit status, negative for a signal.
        state: what the worker's events told.
        cancelled: we killed it because the user asked to.
        oom_kills: how many processes the kernel's OOM killer took while it ran; 0 also where nobody knows.
        last_rss_bytes: its last sampled RSS.
        limit_bytes: its own limit, where that kept it from more; None where nothing but the machine did.

    Returns:
        ``outcome``, ``message``, ``died_at`` (phase and tensor, None for a run that completed) and ``exit_status``.
    """
    outcome, message = _cause(status, state.reports, cancelled=cancelled, oom_kills=oom_kills)
    if outcome in ("oom_killed", "out_of_memory") and limit_bytes is not None:
        message += f" at its limit of {format_bytes(limit_bytes)}"
    if outcome == "failed" and "failure" not in state.reports and state.last_words:
        message += f", saying '{shown(state.last_words, 200)}'"
    died_at: Mapping[str, object] | None = None
    if outcome != "completed":
        died_at = {"phase": state.phase or None, "tensor": state.tensor}
        message += _place(state)
        if outcome in ("oom_killed", "signalled") and last_rss_bytes is not None:
            message += f", last seen at {format_bytes(last_rss_bytes)} RSS"
    return {"outcome": outcome, "message": message, "died_at": died_at, "exit_status": status}


def _cause(status: int, reports: Mapping[str, Any], *, cancelled: bool, oom_kills: int) -> tuple[str, str]:
    if "finished" in reports:
        return "completed", ""
    if cancelled:
        return "cancelled", "cancelled"
    outcome, message = _death(status, reports, oom_kills=oom_kills)
    if "resident" in reports:  # what comes after is ours and not the strategy's
        return "completed", f"the verification did not finish: {message}"
    return outcome, message


def _death(status: int, reports: Mapping[str, Any], *, oom_kills: int) -> tuple[str, str]:
    failure = reports.get("failure")
    if failure is not None:
        return failure["kind"], f"{failure['type']}: {failure['message']}"
    if status == -signal.SIGKILL and oom_kills:
        return "oom_killed", "killed by the kernel's OOM killer"
    if status < 0:
        return "signalled", f"killed by {_signal_name(-status)}"
    return "failed", f"the worker ended with exit status {status} before it was done"


def _place(state: WorkerState) -> str:
    place = f" in phase '{state.phase}'" if state.phase else ""
    return f"{place} at {state.tensor}" if state.tensor else place


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
