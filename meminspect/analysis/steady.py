"""What is left once a load is over: the model, what the allocator keeps beside it, and what a trim leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.records import Resident
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Run = Mapping[str, Any]

__all__ = ["retained", "steady_document"]

_POOLS: Final = ("heap_bytes", "file_bytes", "pinned_bytes")
_MUCH_BYTES: Final = 16 << 20
_MUCH_OF_THE_MODEL: Final = 0.02

# `man 3 mallopt`, M_MMAP_THRESHOLD.
_DYNAMIC: Final = (
    "glibc has raised its mmap threshold to the size of what was freed (32 MiB at most) and keeps such blocks for "
    "itself; MALLOC_MMAP_THRESHOLD_=131072 in the environment keeps the threshold where it is"
)
_FIXED: Final = "what was freed lies between blocks in use; the allocator gives back whole pages on malloc_trim only"
_NO_TRIM: Final = "this C library has no malloc_trim, so nobody can tell what it would give back"


def steady_document(
    steady: Mapping[str, Any] | None, baseline: Resident | None, seen: Resident | None = None
) -> dict[str, Any]:
    """`steady` of RUN but for the device, above the baseline; None where nobody knows.

    Args:
        steady: the worker's report of that name.
        baseline: the worker's memory at the baseline.
        seen: what was seen of it from outside afterwards, for want of its own reading.
    """
    if steady is None or baseline is None:
        keys = (*_POOLS, "rss_bytes", "live_bytes", "retained_heap_bytes", "trimmed_heap_bytes", "retained_reason")
        return dict.fromkeys(keys)
    own = [steady["steady"][key] for key in _POOLS]
    held = seen if None in own else Resident(sum(own), *own)
    left: dict[str, Any] = dict.fromkeys(Resident._fields) if held is None else held.above(baseline)._asdict()
    document = {
        **left,
        "live_bytes": steady["live_bytes"],
        "retained_heap_bytes": None,
        "trimmed_heap_bytes": None,
        "retained_reason": _NO_TRIM,
    }
    if steady["trimmed"] is None or baseline.heap_bytes is None:
        return document
    trimmed_bytes = steady["trimmed"]["heap_bytes"] - baseline.heap_bytes
    retained_bytes = left["heap_bytes"] - trimmed_bytes
    much = retained_bytes > max(_MUCH_BYTES, _MUCH_OF_THE_MODEL * steady["live_bytes"])
    reason = (_FIXED if steady.get("fixed_mmap_threshold") else _DYNAMIC) if much else None
    return {
        **document,
        "retained_heap_bytes": retained_bytes,
        "trimmed_heap_bytes": trimmed_bytes,
        "retained_reason": reason,
    }


def retained(run: Run) -> str:
    """In a sentence what the allocator keeps beside the model, and why; empty where that is little or unknown."""
    steady = run.get("steady") or {}
    if not steady.get("retained_reason") or steady["retained_heap_bytes"] is None:
        return ""
    kept, live = (format_bytes(steady[key]) for key in ("retained_heap_bytes", "live_bytes"))
    return f"Afterwards {live} are live, and the allocator keeps {kept} more: {steady['retained_reason']}."
