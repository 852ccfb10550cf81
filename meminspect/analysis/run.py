"""A finished run as the JSON contract has it (`meminspect.run/1`, RUN), derived from its capture."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from meminspect.analysis.confinement import confined_document, room_under
from meminspect.analysis.device import device_document, gpu_loaded_to
from meminspect.analysis.live import bill, place_at, tensors_materialised
from meminspect.analysis.own_code import import_lines, own_rows
from meminspect.analysis.script import own_code, script_document
from meminspect.analysis.steady import steady_document
from meminspect.analysis.storage import NEVER_BEGAN, cache_document, forward_document, io_document
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.analysis.window import samples_between, window
from meminspect.capture.records import EventKind
from meminspect.devices import index_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.analysis.own_code import OwnCode
    from meminspect.analysis.window import Window
    from meminspect.capture.records import Event, Sample
    from meminspect.capture.store import CaptureReader

__all__ = ["run_document"]

_POOL_KEYS = ("heap_bytes", "file_bytes", "pinned_bytes")
_LIMIT_KEYS = ("bytes", "mechanism", "cgroup_peak_bytes", "cgroup_file_bytes", "note")
RLIMIT_DATA = "RLIMIT_DATA"  # the mechanism that counts promises of memory, and no page of a file that is only read
_HUNDRED = 100
_UNACCOUNTED = 16 << 20  # pages of libraries that others had read, and what the cgroup's counters lag behind
_DIED = "the worker died before it could read its high-water mark, so the highest reading stands for the peak"
_NO_RESET = (
    "the kernel lets nobody reset the high-water mark here (/proc/PID/clear_refs), so the highest reading stands for "
    "the peak where it is below an earlier one"
)
_UNTOUCHED = (
    "the high-water mark is the script's own and never reset, and it was read for the last time before the script "
    "ended, or is no higher than before the baseline: the highest reading stands for the peak"
)
_SEEN_FROM_OUTSIDE = (
    "not exact: {}, so the peak is the highest of samples from outside, above a baseline that is one, too; the "
    "process's largest RSS ever is no lower than it and bounds it from above"
)
_MARK_OF_LIFE = (
    "not exact: {}, so the peak is the process's largest RSS ever (getrusage), which was reached in the load, above a "
    "baseline that was sampled from outside"
)
_SAMPLED_TO_DEATH = (
    "{}, and the worker died before it could read its largest RSS: the highest sample stands for the peak"
)
_NO_DEVICE = "the load uses no device"
_STEADY = (EventKind.READING, "steady")
_NO_POOLS = dict.fromkeys((*_POOL_KEYS, "vram_allocated_bytes", "vram_reserved_bytes"))


def run_document(capture: CaptureReader) -> dict[str, Any]:
    """Everything that is known of a run; what is not, is None."""
    spec = capture.fact("spec") or {}
    outcome = capture.fact("outcome") or {"outcome": None, "message": "still running", "died_at": None}
    events = [event for _, event in capture.events()]
    samples = capture.samples()
    on_device = (spec.get("options") or {}).get("device", "cpu") != "cpu"
    at_baseline = capture.fact("baseline") or {}
    resets, no_pools = at_baseline.get("resets", True), (capture.fact("pools") or {}).get("reason") or None
    at_end = capture.fact("window") or {}
    marks = at_baseline.get("high_water_bytes"), at_end.get("high_water_bytes")
    untouched = at_baseline.get("untouched", False)
    cut = window(events, samples, marks_reset=resets, untouched=untouched, own_marks=marks)
    limit = _limit(spec, capture.fact("limit"), cut)
    room_bytes = _room_bytes(limit, cut)
    why_no_vram = _why_no_vram(capture.fact("vram"), on_device=on_device)
    device = _device(capture, events, cut, spec, why_no_vram) if on_device else None
    code = own_code(capture, cut, events)
    return {
        "strategy": spec.get("strategy"),
        "outcome": outcome["outcome"],
        "message": outcome["message"],
        "died_at": outcome["died_at"],
        **{key: outcome.get(key) for key in ("in_use", "ceiling", "evidence")},
        "device_shortage": outcome.get("device"),
        "returned_s": _elapsed(capture.fact("returned")),
        "resident_s": _elapsed(capture.fact("resident")),
        "cache": cache_document(capture, cut),
        "baseline": _baseline(cut),
        "peak": _peak(cut, samples, device),
        "peak_bracket_bytes": _peak_bracket(cut),
        "peak_bracket_reason": _why_no_bracket(cut, at_baseline, no_pools=no_pools),
        "pools_reason": no_pools,
        "vram_reason": why_no_vram,
        "device": device,
        "peak_at": _peak_at(cut, events),
        "steady": _steady(cut, events, capture.fact("steady"), samples, device),
        "theory": confined_document(capture.fact("theory"), room_bytes),
        "bill": _bill(cut, events, capture, room_bytes, code),
        "tensors": _tensors(capture, events),
        "attribution": capture.fact("attribution"),
        "io": io_document(capture, cut, samples),
        **forward_document(capture, cut, events, samples),
        "overhead": _overhead(cut, samples, capture.fact("supervision"), capture.fact("hooks")),
        "limit": limit,
        "repeat": {"index": spec.get("repeat_index"), "of": spec.get("repeat_of")},
        "capture": str(capture.path),
        "better": capture.fact("better"),
        "environment": _environment(capture),
        "script": script_document(capture, code),
    }


def _environment(capture: CaptureReader) -> dict[str, Any] | None:
    """What the worker ran in, as it said itself, a script's when it imported torch; None where it came not so far."""
    reported, later = capture.fact("environment"), capture.fact("library") or {}
    names = ("executable", "python", "torch", "safetensors")
    if reported is None:
        return None
    return {**{name: {**reported, **later}.get(name) for name in names}, **(capture.fact("packages") or {})}


def _elapsed(moment: Mapping[str, int] | None) -> float | None:
    """Seconds since the load began; both times come from the worker's clock."""
    return None if moment is None else (moment["t_ns"] - moment["started_ns"]) / 1e9


def _baseline(cut: Window | None) -> dict[str, int | None]:
    if cut is None:
        return dict.fromkeys(("rss_bytes", "heap_bytes", "file_bytes"))
    held = cut.baseline.held
    return {"rss_bytes": held.rss_bytes, "heap_bytes": held.heap_bytes, "file_bytes": held.file_bytes}


def _device(
    capture: CaptureReader,
    events: Sequence[Event],
    cut: Window | None,
    spec: Mapping[str, Any],
    why_no_vram: str | None,
) -> dict[str, Any] | None:
    """What was taken of the device; None where the load never began."""
    if cut is None:
        return None
    ordinal, gpu = index_of(spec["options"]["device"]), gpu_loaded_to(capture.fact)
    found = device_document(
        events, capture.device_samples(), capture.ledger(), cut.baseline.t_ns, cut.end_ns, ordinal, why_no_vram
    )
    unified = gpu and gpu["unified"]
    inside = (capture.fact("baseline") or {}).get("integrated")  # by torch, where the driver does not tell
    return {**found, "unified": inside if unified is None else unified}


def _peak(cut: Window | None, samples: Sequence[Sample], device: Mapping[str, Any] | None) -> dict[str, int | None]:
    """The driver's figure is the whole device's: a load that does not use it has no share in it."""
    if cut is None:
        return {**_NO_POOLS, "rss_bytes": None, "vram_used_bytes": None}
    inside = samples_between(samples, cut.baseline.t_ns, cut.end_ns)
    return {
        **_NO_POOLS,
        **cut.peaks()._asdict(),
        "rss_bytes": cut.peak_rss_bytes,
        "vram_used_bytes": None if device is None else _vram_above_first(inside),
        "vram_allocated_bytes": device and device["allocated_bytes"],
        "vram_reserved_bytes": device and device["reserved_bytes"],
    }


def _peak_bracket(cut: Window | None) -> dict[str, int | None]:
    """How much higher each true peak may lie; nobody knows of a total whose mark was not read to the end."""
    if cut is None:
        return {**_NO_POOLS, "rss_bytes": None}
    return {**_NO_POOLS, **cut.brackets()._asdict(), "rss_bytes": cut.total_bracket()}


def _why_no_bracket(cut: Window | None, at_baseline: Mapping[str, Any], *, no_pools: str | None) -> str | None:
    """Why the peak of the total is not exact; None where it is."""
    if cut is None:
        return NEVER_BEGAN
    if cut.exact:
        return None
    if no_pools:
        if cut.most_bytes is not None:
            return _SEEN_FROM_OUTSIDE.format(no_pools)
        return (_MARK_OF_LIFE if not cut.marks[-1].dated else _SAMPLED_TO_DEATH).format(no_pools)
    if at_baseline.get("untouched"):
        return _UNTOUCHED
    return _DIED if at_baseline.get("resets", True) else _NO_RESET


def _why_no_vram(vram: Mapping[str, Any] | None, *, on_device: bool) -> str | None:
    """Why there is no `vram_used_bytes`; None where there is."""
    if not on_device:
        return _NO_DEVICE
    return (vram or {}).get("reason") or None


def _vram_above_first(samples: Sequence[Sample]) -> int | None:
    readings = [sample.vram_used_bytes for sample in samples if sample.vram_used_bytes is not None]
    return max(readings) - readings[0] if readings else None


def _vram_at_the_end(samples: Sequence[Sample]) -> int | None:
    readings = [sample.vram_used_bytes for sample in samples if sample.vram_used_bytes is not None]
    return readings[-1] - readings[0] if readings else None


def _peak_at(cut: Window | None, events: Sequence[Event]) -> dict[str, Any]:
    if cut is None or not cut.peak.dated:
        return {"t_s": None, "phase": None, "tensor": None}
    place = place_at(events, cut.peak.t_ns, cut.baseline.t_ns)
    return {"t_s": (cut.peak.t_ns - cut.baseline.t_ns) / 1e9, "phase": place.phase, "tensor": place.tensor}


def _steady(
    cut: Window | None,
    events: Sequence[Event],
    steady: Mapping[str, Any] | None,
    samples: Sequence[Sample],
    device: Mapping[str, Any] | None,
) -> dict[str, Any]:
    vram_bytes = None
    if cut is not None and device is not None and steady is not None:
        vram_bytes = _vram_at_the_end(samples_between(samples, cut.baseline.t_ns, cut.end_ns))
    baseline = seen = None
    if cut is not None:
        baseline = cut.baseline.held
        steady_ns = next((event.t_ns for event in events if (event.kind, event.name) == _STEADY), 0)
        seen = next((sample.resident for sample in reversed(samples) if cut.end_ns < sample.t_ns <= steady_ns), None)
    return {
        **_NO_POOLS,
        "vram_used_bytes": vram_bytes,
        "vram_allocated_bytes": device and device["steady_allocated_bytes"],
        "vram_reserved_bytes": device and device["steady_reserved_bytes"],
        **steady_document(steady, baseline, seen),
    }


def _bill(
    cut: Window | None,
    events: Sequence[Event],
    capture: CaptureReader,
    room_bytes: int | None,
    code: OwnCode | None,
) -> list[dict[str, Any]] | None:
    if cut is None:
        return None
    lines = bill(
        events, capture.ledger() if code is None else own_rows(code), cut.billed.t_ns, cut.baseline.t_ns,
        cut.peak_rss_bytes, retained_bytes=_more_at_peak(capture, "retained") or 0, fallen_bytes=cut.fallen_bytes,
        heap_bytes=cut.most_heap_bytes(), used_bytes=_more_at_peak(capture, "used"), room_bytes=room_bytes,
        beside=() if code is None else import_lines(events, cut.baseline.t_ns, cut.billed.t_ns),
    )  # fmt: skip
    return [{"item": line.item, "pool": line.pool or None, "bytes": line.nbytes} for line in lines]


def _more_at_peak(capture: CaptureReader, what: str) -> int | None:
    """How much more the allocators had at the peak than at the baseline, in use or kept; None where nobody asked."""
    before = (capture.fact("baseline") or {}).get(f"{what}_bytes")
    at_peak = (capture.fact("window") or {}).get(f"{what}_at_peak_bytes")
    return None if before is None or at_peak is None else max(0, at_peak - before)


def _tensors(capture: CaptureReader, events: Sequence[Event]) -> dict[str, int | None]:
    counts, checkpoint = capture.fact("tensors") or {}, capture.fact("checkpoint")
    provisional = (capture.fact("opened") or {}).get("provisional", ())
    keys = ("expected", "verified", "mismatched", "missing", "unexpected")
    document: dict[str, int | None] = {key: counts.get(key) for key in keys}
    if document["expected"] is None and checkpoint is not None:
        document["expected"] = checkpoint["tensors"]
    return {**document, "materialised": tensors_materialised(events, provisional)}


def _lateness_ms(samples: Sequence[Sample]) -> float | None:
    """By how much the latest of a hundred samples came later than the others; None of fewer."""
    gaps = sorted(after.t_ns - before.t_ns for before, after in itertools.pairwise(samples))
    return (gaps[len(gaps) * 99 // 100] - gaps[len(gaps) // 2]) / 1e6 if len(gaps) >= _HUNDRED else None


def _overhead(
    cut: Window | None,
    samples: Sequence[Sample],
    supervision: Mapping[str, Any] | None,
    hooks: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What watching cost. The hooks delay the load itself; the others run beside it, on another core if any."""
    watched, inside = supervision or {}, hooks or {}
    beside: list[float | None] = [watched.get(f"{thread}_cpu_s") for thread in ("sampler", "writer", "cache_watch")]
    hooks_s, supervised_s = inside.get("hooks_s"), watched.get("supervised_s")
    fraction = None
    if cut is not None and supervised_s and hooks_s is not None and cut.end_ns > cut.baseline.t_ns:
        fraction = sum(cost or 0.0 for cost in beside) / supervised_s + hooks_s / (
            (cut.end_ns - cut.baseline.t_ns) / 1e9
        )
    return {
        "samples": watched.get("samples"),
        "sampler_cpu_s": beside[0],
        "writer_cpu_s": beside[1],
        "cache_watch_cpu_s": beside[2],
        "hooks_s": hooks_s,
        "accounted_fraction": fraction,
        "max_gap_ms": watched.get("max_gap_ms"),
        "late_ms_p99": _lateness_ms(samples),
        "events": inside.get("events"),
        "events_lost": watched.get("events_lost"),
        "event_us_median": inside.get("event_us_median"),
    }


def _limit(spec: Mapping[str, Any], limit: Mapping[str, Any] | None, cut: Window | None) -> dict[str, Any] | None:
    """The limit that was asked for, and whether it held: pages that were charged to somebody else are beyond it."""
    if spec.get("limit_bytes") is None:
        return None
    counted = {**dict.fromkeys(_LIMIT_KEYS), "bytes": spec["limit_bytes"], **(limit or {})}
    confined = None
    if cut is not None and counted["cgroup_file_bytes"] is not None:
        file_bytes = cut.peaks().file_bytes
        confined = None if file_bytes is None else file_bytes <= counted["cgroup_file_bytes"] + _UNACCOUNTED
    return {**counted, "confined": confined}


def _room_bytes(limit: Mapping[str, Any] | None, cut: Window | None) -> int | None:
    """What the limit left to heap and to pages of files together; None where files' pages were not held by it."""
    if limit is None or limit["mechanism"] == RLIMIT_DATA or limit["confined"] is False:
        return None
    heap_bytes = None if cut is None else cut.baseline.held.heap_bytes
    return room_under(limit["bytes"], PROCESS_BYTES if heap_bytes is None else heap_bytes)
