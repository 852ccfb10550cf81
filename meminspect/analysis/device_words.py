"""What a run took of its device, in words, with what each figure means beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meminspect.analysis.words import PHASE_WORDS
from meminspect.text import shown
from meminspect.units import format_bytes, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Run = Mapping[str, Any]

__all__ = ["device_lines"]


def device_lines(run: Run) -> list[str]:
    """Lines on the device; none of a load that used none.

    Args:
        run: RUN of the JSON contract.
    """
    device = run.get("device")
    return [] if device is None else [*_lines(device), *_together(run, device)]


def _lines(device: Mapping[str, Any]) -> Iterator[str]:
    if device["reason"] is not None:
        yield f"device memory by torch not available: {device['reason']}"
    else:
        allocated, why_least = format_bytes(device["allocated_bytes"]), device.get("allocated_reason")
        more = "" if why_least is None else f" ({why_least})"
        yield f"device: {allocated} allocated at most{_place(device['peak_at'])}: what tensors take{more}"
        yield f"device: {_reserved(device)}"
    yield f"device: {_used(device)}"
    parts = [f"{shown(line['item'])} {format_bytes(line['bytes'])}" for line in device["bill"] or ()]
    if parts:
        yield f"device = {' + '.join(parts)}"
    if device["busy_percent"] is not None:
        yield f"device: busy up to {device['busy_percent']} % of the time{_traffic(device)}"


def _together(run: Run, device: Mapping[str, Any]) -> Iterator[str]:
    """Where the device has no memory of its own: what host and device took of the one that there is."""
    reserved = device["allocated_bytes"] if device["reserved_bytes"] is None else device["reserved_bytes"]
    if device["unified"] and None not in (reserved, run["peak"]["rss_bytes"]):
        both = run["peak"]["rss_bytes"] + reserved
        yield f"host and device share one memory: {format_bytes(both)} of it at most, file pages and copies together"


def _place(peak_at: Mapping[str, str | None]) -> str:
    phase, tensor = peak_at["phase"], peak_at["tensor"]
    doing = "" if phase is None else f" while {PHASE_WORDS.get(phase, shown(phase))}"
    return doing if tensor is None else f" at {shown(tensor)}{doing}"


def _reserved(device: Mapping[str, Any]) -> str:
    if device["reserved_bytes"] is None:
        return f"what torch's allocator reserved not available: {device['reserved_reason']}"
    return f"{format_bytes(device['reserved_bytes'])} reserved: what torch's allocator took of the driver for them"


def _used(device: Mapping[str, Any]) -> str:
    """The driver's figure, of the process or else of all."""
    if device["process_bytes"] is not None:
        context = device["context_bytes"]
        more = "" if context is None else f", {format_bytes(context)} of the device's context included"
        return f"{format_bytes(device['process_bytes'])} used by the process, as the driver counts{more}"
    if device["used_bytes"] is None:
        return f"the driver's count not available: {device['process_reason']}"
    used, reason = format_bytes(device["used_bytes"]), device["process_reason"]
    return f"{used} used by all processes together, as the driver counts; this one's share not available: {reason}"


def _traffic(device: Mapping[str, Any]) -> str:
    to_device = device["to_device_bytes_per_s"]
    return "" if to_device is None else f", up to {format_rate(to_device)} over PCIe to it"
