"""A finished run as the JSON contract has it (`meminspect.run/1`, RUN), derived from its capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meminspect.analysis.live import bill, place_at, tensors_materialised
from meminspect.analysis.window import samples_between, window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.analysis.window import Window
    from meminspect.capture.records import Event, Sample
    from meminspect.capture.store import CaptureReader

__all__ = ["run_document"]

_COLD, _WARM = 0.01, 0.99
_POOL_KEYS = ("heap_bytes", "file_bytes", "pinned_bytes")
_LIMIT_KEYS = ("bytes", "mechanism", "cgroup_peak_bytes", "cgroup_file_bytes")
_UNACCOUNTED = 16 << 20  # pages of libraries that others had read, and what the cgroup's counters lag behind
_NO_POOLS = dict.fromkeys((*_POOL_KEYS, "vram_allocated_bytes", "vram_reserved_bytes"))


def run_document(capture: CaptureReader) -> dict[str, Any]:
    """Everything that is known of a run; what is not, is None."""
    spec = capture.fact("spec") or {}
    outcome = capture.fact("outcome") or {"outcome": None, "message": "still running", "died_at": None}
    events = [event for _, event in capture.events()]
    samples = capture.samples()
    on_device = (spec.get("options") or {}).get("device", "cpu") != "cpu"
    cut = window(events, samples, marks_reset=(capture.fact("baseline") or {}).get("resets", True))
    return {
        "strategy": spec.get("strategy"),
        "outcome": outcome["outcome"],
        "message": outcome["message"],
        "died_at": outcome["died_at"],
        "returned_s": _elapsed(capture.fact("returned")),
        "resident_s": _elapsed(capture.fact("resident")),
        "cache": _cache(capture.fact("cache")),
        "baseline": _baseline(cut),
        "peak": _peak(cut, samples, on_device=on_device),
        "peak_bracket_bytes": _peak_bracket(cut),
        "peak_at": _peak_at(cut, events),
        "steady": _steady(cut, capture.fact("steady"), samples, on_device=on_device),
        "theory": capture.fact("theory"),
        "bill": _bill(cut, events, capture),
        "tensors": _tensors(events, capture.fact("tensors"), capture.fact("checkpoint")),
        "io": _io(capture.fact("io"), capture.fact("resident")),
        "overhead": _overhead(cut, capture.fact("supervision"), capture.fact("hooks")),
        "limit": _limit(spec, capture.fact("limit"), cut),
        "repeat": {"index": spec.get("repeat_index"), "of": spec.get("repeat_of")},
        "capture": str(capture.path),
        "better": capture.fact("better"),
    }


def _elapsed(moment: Mapping[str, int] | None) -> float | None:
    """Seconds since the load began; both times come from the worker's clock."""
    return None if moment is None else (moment["t_ns"] - moment["started_ns"]) / 1e9


def _cache(cache: Mapping[str, float | None] | None) -> dict[str, Any]:
    before, after = (cache or {}).get("fraction_before"), (cache or {}).get("fraction_after")
    state = None
    if before is not None:
        state = "cold" if before <= _COLD else "warm" if before >= _WARM else "mixed"
    return {"state": state, "fraction_before": before, "fraction_after": after}


def _baseline(cut: Window | None) -> dict[str, int | None]:
    if cut is None:
        return dict.fromkeys(("rss_bytes", "heap_bytes", "file_bytes"))
    reading = cut.baseline.reading
    return {
        "rss_bytes": reading.rss_bytes,
        "heap_bytes": reading.heap_bytes,
        "file_bytes": reading.file_bytes,
    }


def _peak(cut: Window | None, samples: Sequence[Sample], *, on_device: bool) -> dict[str, int | None]:
    """The driver's figure is the whole device's: a load that does not use it has no share in it."""
    if cut is None:
        return {**_NO_POOLS, "rss_bytes": None, "vram_used_bytes": None}
    inside = samples_between(samples, cut.baseline.t_ns, cut.end_ns)
    return {
        **_NO_POOLS,
        **cut.peaks()._asdict(),
        "rss_bytes": cut.peak_rss_bytes,
        "vram_used_bytes": _vram_above_first(inside) if on_device else None,
    }


def _peak_bracket(cut: Window | None) -> dict[str, int | None]:
    """How much higher each true peak may lie; nobody knows of a total whose mark was not read to the end."""
    if cut is None:
        return {**_NO_POOLS, "rss_bytes": None}
    return {**_NO_POOLS, **cut.brackets()._asdict(), "rss_bytes": 0 if cut.exact else None}


def _vram_above_first(samples: Sequence[Sample]) -> int | None:
    readings = [sample.vram_used_bytes for sample in samples if sample.vram_used_bytes is not None]
    return max(readings) - readings[0] if readings else None


def _vram_at_the_end(samples: Sequence[Sample]) -> int | None:
    readings = [sample.vram_used_bytes for sample in samples if sample.vram_used_bytes is not None]
    return readings[-1] - readings[0] if readings else None


def _peak_at(cut: Window | None, events: Sequence[Event]) -> dict[str, Any]:
    if cut is None:
        return {"t_s": None, "phase": None, "tensor": None}
    place = place_at(events, cut.peak.t_ns, cut.baseline.t_ns)
    return {"t_s": (cut.peak.t_ns - cut.baseline.t_ns) / 1e9, "phase": place.phase, "tensor": place.tensor}


def _steady(
    cut: Window | None, steady: Mapping[str, Any] | None, samples: Sequence[Sample], *, on_device: bool
) -> dict[str, int | None]:
    if cut is None or steady is None:
        more = ("rss_bytes", "vram_used_bytes", "retained_heap_bytes", "trimmed_heap_bytes")
        return {**_NO_POOLS, **dict.fromkeys(more)}
    base = cut.baseline.reading
    inside = samples_between(samples, cut.baseline.t_ns, cut.end_ns)
    pools = {key: steady["steady"][key] - getattr(base, key) for key in _POOL_KEYS}
    trimmed = steady["trimmed"]["heap_bytes"] - base.heap_bytes
    return {
        **_NO_POOLS,
        **pools,
        "rss_bytes": sum(pools.values()),
        "vram_used_bytes": _vram_at_the_end(inside) if on_device else None,
        "retained_heap_bytes": pools["heap_bytes"] - trimmed,
        "trimmed_heap_bytes": trimmed,
    }


def _bill(cut: Window | None, events: Sequence[Event], capture: CaptureReader) -> list[dict[str, Any]] | None:
    if cut is None:
        return None
    lines = bill(events, capture.ledger(), cut.highest.t_ns, cut.baseline.t_ns, cut.peak_rss_bytes)
    return [{"item": line.item, "pool": line.pool or None, "bytes": line.nbytes} for line in lines]


def _tensors(
    events: Sequence[Event], verified: Mapping[str, Any] | None, checkpoint: Mapping[str, Any] | None
) -> dict[str, int | None]:
    counts = verified or {}
    keys = ("expected", "verified", "mismatched", "missing", "unexpected")
    document: dict[str, int | None] = {key: counts.get(key) for key in keys}
    if document["expected"] is None and checkpoint is not None:
        document["expected"] = checkpoint["tensors"]
    return {**document, "materialised": tensors_materialised(events)}


def _io(io: Mapping[str, Any] | None, resident: Mapping[str, int] | None) -> dict[str, Any]:
    """From the worker's own books, at the baseline and when everything was resident."""
    keys = ("read_bytes", "major_faults", "minor_faults")
    if io is None:
        return dict.fromkeys((*keys, "bytes_per_s"))
    grown: dict[str, Any] = {
        key: None if io["before"][key] is None or io["after"][key] is None else io["after"][key] - io["before"][key]
        for key in keys
    }
    read, seconds = grown["read_bytes"], _elapsed(resident)
    return {**grown, "bytes_per_s": read / seconds if read is not None and seconds else None}


def _overhead(
    cut: Window | None, supervision: Mapping[str, Any] | None, hooks: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What watching cost. The hooks delay the load itself; sampler and writer run beside it, on another core if any."""
    watched, inside = supervision or {}, hooks or {}
    beside: list[float | None] = [watched.get("sampler_cpu_s"), watched.get("writer_cpu_s")]
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
        "hooks_s": hooks_s,
        "accounted_fraction": fraction,
        "max_gap_ms": watched.get("max_gap_ms"),
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
        confined = cut.peaks().file_bytes <= counted["cgroup_file_bytes"] + _UNACCOUNTED
    return {**counted, "confined": confined}
