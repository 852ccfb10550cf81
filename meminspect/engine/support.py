"""Whether this system tells what a run measures: the pools of a process, which only Linux's procfs keeps apart."""

from __future__ import annotations

from typing import Final

from meminspect.errors import RunError
from meminspect.sampling.procfs import ProcessGone, ProcessMemory
from meminspect.text import listed

__all__ = ["require_measurable"]

_LABELS: Final = ("VmHWM", "RssAnon", "RssFile", "RssShmem", "VmSwap")  # man 5 proc; Linux has them all since 4.5
_HINT: Final = (
    "inspect, plan, synth, view and export work here; run on Linux, and view the capture that it leaves anywhere"
)


def require_measurable() -> None:
    """Return where a run can be measured.

    Raises:
        RunError: it cannot, and why.
    """
    try:
        with ProcessMemory("self") as memory:
            status = memory.status()
    except (ProcessGone, OSError):
        why = "there is no /proc/PID/status to read"
    else:
        missing = [label for label in _LABELS if f"\n{label}:".encode() not in status]
        if not missing:
            return
        why = f"/proc/PID/status lacks {listed(missing)}"
    raise RunError(f"a run can't be measured on this system: {why}, which tells heap, file and pinned memory", _HINT)
