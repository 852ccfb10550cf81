"""What a run did to storage and page cache, in words: only what there is to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.storage import NO_CHECKPOINT
from meminspect.units import format_bytes, format_duration, format_rate, format_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Run = Mapping[str, Any]

__all__ = ["storage_lines"]

_LEAST_DEFERRED: Final = 0.1  # of the time to *resident*: less than that is no cost that somebody would look for
_LEAST_WAITED_S: Final = 0.05


def storage_lines(run: Run) -> list[str]:
    """What was read and from where, what a mapping put off, and what the first forward pass cost; a line each.

    Args:
        run: RUN of the JSON contract, of a load that began.
    """
    read = ", ".join(_io(run))
    return [line for line in (read, _deferred(run), _forward(run)) if line]


def _io(run: Run) -> Iterator[str]:
    io = run["io"]
    if io["read_bytes"] is None:
        yield f"reads from storage not available: {io['reason']}"
    else:
        size, rate = format_bytes(io["read_bytes"]), format_rate(io["bytes_per_s"])
        yield (f"read {size} at {rate}" if io["read_bytes"] else "read nothing from storage") + _cache(run["cache"])
    if io["network"]:
        yield f"on {io['file_system']}, which is reached over a network or shared by a host"
    faults = [f"{io[f'{kind}_faults']:,} {kind}" for kind in ("major", "minor") if io[f"{kind}_faults"]]
    if faults:
        yield f"{' and '.join(faults)} faults"
    yield from _waited(io["pressure"])


def _cache(cache: Mapping[str, Any]) -> str:
    if cache["reason"] == NO_CHECKPOINT:
        return ""
    if cache["state"] is None:
        return f", page cache not available: {cache['reason']}"
    after = "" if cache["fraction_after"] is None else f", {format_share(cache['fraction_after'])} after"
    return f", {cache['state']} page cache ({format_share(cache['fraction_before'])} before{after})"


def _waited(pressure: Mapping[str, Any] | None) -> Iterator[str]:
    if pressure is None:
        return
    whose = "" if pressure["scope"] == "cgroup" else " (machine)"
    for name, what in (("io", "storage"), ("memory", "memory")):
        if pressure[f"{name}_some_s"] >= _LEAST_WAITED_S:
            yield f"{what} pressure {format_duration(pressure[f'{name}_some_s'])}{whose}"


def _deferred(run: Run) -> str:
    returned, resident = run["returned_s"], run["resident_s"]
    if returned is None or resident is None or resident - returned < _LEAST_DEFERRED * resident:
        return ""
    rest = format_duration(resident - returned)
    return f"returned after {format_duration(returned)}; the pages came in the {rest} until resident"


def _forward(run: Run) -> str:
    forward = run.get("forward")
    if forward is None:
        reason = run.get("forward_reason")
        said = run["outcome"] == "completed" and reason not in (None, "not asked for")
        return f"first forward pass not available: {reason}" if said else ""
    words = f"first forward pass {format_duration(forward['s'])}"
    if forward["peak_rss_bytes"] is not None:
        words += f", at most {format_bytes(forward['peak_rss_bytes'])} above the baseline"
    if forward["read_bytes"]:
        words += f", read {format_bytes(forward['read_bytes'])} again"
    if forward["major_faults"]:
        words += f", {forward['major_faults']:,} major faults"
    return words
