"""What a run did to page cache and storage, and what its first forward pass cost: `cache`, `io`, `forward` of RUN."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.window import samples_between
from meminspect.capture.records import EventKind
from meminspect.sampling.file_system import is_network
from meminspect.sampling.mounted import UNKNOWN_FILE_SYSTEM
from meminspect.sampling.pressure import NO_PRESSURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.analysis.window import Window
    from meminspect.capture.records import Cached, Event, Sample
    from meminspect.capture.store import CaptureReader

    Fact = Mapping[str, Any]

__all__ = ["NEVER_BEGAN", "NO_CHECKPOINT", "cache_document", "forward_document", "io_document"]

_COLD, _WARM = 0.01, 0.99
NEVER_BEGAN: Final = "the load never began"
NO_CHECKPOINT: Final = "no checkpoint was named whose files to watch"
_NOT_RECORDED: Final = "its capture, of an older meminspect, does not tell"
_BOOKS: Final = ("read_bytes", "major_faults", "minor_faults")
_PRESSURES: Final = ("memory_some", "memory_full", "io_some", "io_full")
_NO_BOOKS: Final = "the kernel keeps no account of what a process reads from storage, or shows it to nobody here"


def cache_document(capture: CaptureReader, cut: Window | None) -> dict[str, Any]:
    """How much of the checkpoint was in the page cache: at the baseline, meanwhile, and at *resident* or its death."""
    cache = capture.fact("cache") or {}
    sizes = [file["bytes"] for file in (capture.fact("checkpoint") or {}).get("files", ())]
    files = _files(capture, cache, cut)
    before, after = cache.get("fraction_before"), cache.get("fraction_after")
    if after is None:
        after = _whole(sizes, [file["fraction_after"] for file in files])
    state = None
    if before is not None:
        state = "cold" if before <= _COLD else "warm" if before >= _WARM else "mixed"
    reason = None
    if state is None:
        reason = _first_reason(files) if cache else NEVER_BEGAN if cut is None else _why_not_recorded(capture)
    return {"state": state, "fraction_before": before, "fraction_after": after, "reason": reason, "files": files}


def _why_not_recorded(capture: CaptureReader) -> str:
    nameless = "script" in (capture.fact("spec") or {}) and capture.fact("checkpoint") is None
    return NO_CHECKPOINT if nameless else _NOT_RECORDED


def _first_reason(files: Sequence[Fact]) -> str | None:
    """Why the share of all files is unknown: what is true of each, or of the first that has one."""
    reasons = [file["reason"] for file in files]
    if len(set(reasons)) == 1:
        return str(reasons[0]) if reasons[0] else _NOT_RECORDED
    return next((f"{file['name']}: {file['reason']}" for file in files if file["reason"]), _NOT_RECORDED)


def _whole(sizes: Sequence[int], fractions: Sequence[float | None]) -> float | None:
    known = [fraction for fraction in fractions if fraction is not None]
    if not sum(sizes) or len(known) < len(sizes):
        return None
    return sum(size * fraction for size, fraction in zip(sizes, known, strict=True)) / sum(sizes)


def _files(capture: CaptureReader, cache: Fact, cut: Window | None) -> list[dict[str, Any]]:
    """File by file; nothing where the worker never got as far as to look, or looked before version 2."""
    files = (capture.fact("checkpoint") or {}).get("files", [])
    before = cache.get("before")
    if before is None or cut is None:
        return []
    reasons = {number: reason for reason, numbers in cache["reasons"].items() for number in numbers}
    sizes, rows = [file["bytes"] for file in files], capture.page_cache()
    seen = _seen_by_file(rows, sizes, cut.baseline.t_ns, cut.end_ns)
    after: Sequence[float | None] | None = cache["after"]
    if after is None:  # the last row of a file is true until its end
        last_seen = _seen_by_file(rows, sizes, 0, cut.end_ns)
        after = [last_seen.get(number, [None])[-1] for number in range(len(files))]
    documents = []
    for number, (file, first, last) in enumerate(zip(files, before, after, strict=False)):
        known = [fraction for fraction in (first, *seen.get(number, ()), last) if fraction is not None]
        documents.append(
            {
                "name": file["name"],
                "fraction_before": first,
                "lowest_during": min(known, default=None),
                "highest_during": max(known, default=None),
                "fraction_after": last,
                "reason": reasons.get(number),
            }
        )
    return documents


def _seen_by_file(
    rows: Sequence[Cached], sizes: Sequence[int], begin_ns: int, end_ns: int
) -> dict[int, list[float | None]]:
    """Each file's fractions that the supervisor saw in a stretch of time, in order of time."""
    times = [row.t_ns for row in rows]
    inside = rows[bisect.bisect_left(times, begin_ns) : bisect.bisect_right(times, end_ns)]
    seen: dict[int, list[float | None]] = {}
    for row in inside:
        if row.file < len(sizes) and sizes[row.file]:
            seen.setdefault(row.file, []).append(min(row.cached_bytes / sizes[row.file], 1.0))
    return seen


def io_document(capture: CaptureReader, cut: Window | None, samples: Sequence[Sample]) -> dict[str, Any]:
    """Reads and faults by the worker's own books from baseline to *resident*; up to its last sample where it died."""
    io = capture.fact("io")
    kind = (capture.fact("checkpoint") or {}).get("file_system")
    return {
        **_grown(io, cut, samples, capture.fact("resident")),
        **_pressure(capture.fact("pressure"), cut),
        "file_system": kind,
        "network": None if kind is None else is_network(kind),
        "file_system_reason": None if kind else UNKNOWN_FILE_SYSTEM,
    }


def _grown(io: Fact | None, cut: Window | None, samples: Sequence[Sample], resident: Fact | None) -> dict[str, Any]:
    if io is None or cut is None:
        return {**dict.fromkeys((*_BOOKS, "bytes_per_s")), "reason": NEVER_BEGAN if cut is None else _NOT_RECORDED}
    after = io["after"] or _last_seen(samples_between(samples, cut.baseline.t_ns, cut.end_ns))
    grown = {
        key: None if io["before"][key] is None or after[key] is None else after[key] - io["before"][key]
        for key in _BOOKS
    }
    read, seconds = grown["read_bytes"], _seconds(resident, cut)
    return {
        **grown,
        "bytes_per_s": read / seconds if read is not None and seconds else None,
        "reason": _NO_BOOKS if read is None else None,
    }


def _seconds(resident: Mapping[str, int] | None, cut: Window) -> float:
    if resident is None:
        return (cut.end_ns - cut.baseline.t_ns) / 1e9
    return (resident["t_ns"] - resident["started_ns"]) / 1e9


def _last_seen(samples: Sequence[Sample]) -> dict[str, int | None]:
    """The books as the last samples have them: not every sample looks at them."""
    last = next((sample for sample in reversed(samples) if sample.minor_faults is not None), None)
    return {key: None if last is None else getattr(last, key) for key in _BOOKS}


def _pressure(pressure: Fact | None, cut: Window | None) -> dict[str, Any]:
    """Seconds in which somebody, or everybody, waited for memory or for storage."""
    if pressure is None or cut is None:
        return {"pressure": None, "pressure_reason": NEVER_BEGAN if cut is None else _NOT_RECORDED}
    before, after = pressure["before"], pressure["after"]
    if before is None or after is None:
        return {"pressure": None, "pressure_reason": NO_PRESSURE}
    waited = {f"{name}_s": (after[f"{name}_us"] - before[f"{name}_us"]) / 1e6 for name in _PRESSURES}
    return {"pressure": {"scope": pressure["scope"], **waited}, "pressure_reason": None}


def forward_document(
    capture: CaptureReader, cut: Window | None, events: Sequence[Event], samples: Sequence[Sample]
) -> dict[str, Any]:
    """What the first forward pass cost, above the baseline; else None and why."""
    asked = bool((capture.fact("spec") or {}).get("forward"))
    forward = capture.fact("forward") or {}
    if cut is not None and "s" in forward:
        return {"forward": _cost(forward, cut, events, samples), "forward_reason": None}
    if not asked:
        return {"forward": None, "forward_reason": "not asked for"}
    if "error" in forward:
        return {"forward": None, "forward_reason": f"it failed: {forward['error']}"}
    began = any(event.kind is EventKind.PHASE and event.name == "first forward" for event in events)
    return {
        "forward": None,
        "forward_reason": forward.get("reason", "the worker died in it" if began else "the run did not get so far"),
    }


def _cost(forward: Fact, cut: Window, events: Sequence[Event], samples: Sequence[Sample]) -> dict[str, Any] | None:
    ends = [
        event
        for event in events
        if event.kind is EventKind.READING and event.name in ("forward begins", "forward ends")
    ]
    if len(ends) < 2:
        return None
    readings = [event.reading for event in ends if event.reading is not None]
    sampled = samples_between(samples, ends[0].t_ns, ends[-1].t_ns)
    held_then = [*(reading.resident for reading in readings), *(sample.resident for sample in sampled)]
    seen = [held.above(cut.baseline.held) for held in held_then]
    rss = [held.rss_bytes for held in seen]
    if readings and forward["resets"]:
        rss.append(readings[-1].high_water_bytes - cut.baseline.held.rss_bytes)
    grown = {
        key: None
        if forward["before"][key] is None or forward["after"][key] is None
        else forward["after"][key] - forward["before"][key]
        for key in ("major_faults", "read_bytes")
    }
    return {
        "s": forward["s"],
        "peak_heap_bytes": max((held.heap_bytes for held in seen if held.heap_bytes is not None), default=None),
        "peak_rss_bytes": max(rss, default=None),
        **grown,
    }
