"""What a run took of the device that it loaded to: by torch's allocator, tensor by tensor, and by the driver.

Three figures, each part of the next: *allocated* is what tensors have, in the allocator's blocks; *reserved* is what
the allocator holds of the driver, free blocks included; *used* is what the process has by the driver's count, with the
CUDA context, which no allocator knows of.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.analysis.live import parted, shares
from meminspect.capture.records import EventKind, Operation, Pool
from meminspect.devices import index_of
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from meminspect.analysis.live import LedgerRow
    from meminspect.capture.records import DeviceReading, DeviceSample, Event

__all__ = ["CONTEXT", "UNUSED", "device_document", "gpu_loaded_to"]

UNUSED: Final = "reserved, not allocated"
CONTEXT: Final = "device context"  # what the driver and the kernels of a process take before its first tensor
_NOT_LISTED: Final = "the driver does not list the worker among its processes, as in containers"
_NO_SAMPLES: Final = "no driver's library told of the device"
_TOO_SHORT: Final = "the load was over between two looks at the driver"
_NO_ALLOCATOR: Final = "the worker ended before its device was looked at"
_NO_PEAK: Final = "this torch counts no peak on the device: it is the most that was counted after a tensor"
_NOT_RESERVED: Final = "this torch does not tell what its allocator holds on the device"


class _Seen(NamedTuple):
    """A reading of the allocator, and the event that has it."""

    number: int
    event: Event
    reading: DeviceReading


def device_document(
    events: Sequence[Event],
    samples: Sequence[DeviceSample],
    ledger: Iterable[LedgerRow],
    baseline_ns: int,
    end_ns: int,
    ordinal: int,
    why_no_driver: str | None,
) -> dict[str, Any]:
    """Under `device` of a run: allocated and reserved above the baseline, the driver's figures as it counts them.

    What is unknown is None.

    Args:
        events: the run's.
        samples: what the driver told, of every GPU.
        ledger: theory's rows, which give names to the lines of the bill.
        baseline_ns: when the load began.
        end_ns: when the model was resident, or the run ended.
        ordinal: CUDA's number of the device.
        why_no_driver: why nobody outside of the process tells of its memory; None where somebody does.
    """
    seen = [
        _Seen(number, event, reading)
        for number, event in enumerate(events)
        if event.t_ns >= baseline_ns and (reading := event.device) is not None
    ]
    inside = [one for one in seen if one.event.t_ns <= end_ns]
    driver = _driver([sample for sample in samples if sample.gpu == ordinal], baseline_ns, end_ns)
    before = driver.pop("process_before_bytes")
    told = [one.reading.process_bytes for one in inside if one.reading.process_bytes is not None]
    if driver["process_bytes"] is None and told:
        driver |= {"process_bytes": max(told), "process_reason": None}
    elif driver["process_bytes"] is None and why_no_driver is not None:
        driver["process_reason"] = why_no_driver
    if not inside:
        return {**dict.fromkeys(_ALLOCATOR_KEYS), "reason": _NO_ALLOCATOR, **driver}
    base, peak = inside[0].reading, max(inside[1:] or inside, key=lambda one: one.reading.most_bytes)
    level = [one for one in inside if one.reading.most_bytes == peak.reading.most_bytes]
    steady = next((one.reading for one in seen if one.event.name == "steady"), None)
    held = [one.reading.reserved_bytes for one in inside if one.reading.reserved_bytes is not None]
    context = _above(before, base.reserved_bytes)
    return {
        "allocated_bytes": peak.reading.most_bytes - base.allocated_bytes,
        "allocated_reason": _NO_PEAK if peak.reading.peak_bytes is None else None,
        "reserved_bytes": _above(max(held, default=None), base.reserved_bytes),
        "reserved_reason": None if held else _NOT_RESERVED,
        "steady_allocated_bytes": None if steady is None else steady.allocated_bytes - base.allocated_bytes,
        "steady_reserved_bytes": None if steady is None else _above(steady.reserved_bytes, base.reserved_bytes),
        "context_bytes": context,
        "peak_at": _place(events, peak),
        "bill": _bill(events[: level[-1].number], ledger, baseline_ns, level[-1].reading, base, context),
        "reason": None,
        **driver,
    }


_ALLOCATOR_KEYS: Final = (
    "allocated_bytes", "allocated_reason", "reserved_bytes", "reserved_reason", "steady_allocated_bytes",
    "steady_reserved_bytes", "context_bytes", "peak_at", "bill",
)  # fmt: skip


def _above(nbytes: int | None, base_bytes: int | None) -> int | None:
    """What one figure is above another."""
    return None if nbytes is None or base_bytes is None else nbytes - base_bytes


def gpu_loaded_to(fact: Callable[[str], Any]) -> Mapping[str, Any] | None:
    """The GPU that a load was to, as the contract has GPUs; None where it is not known.

    Args:
        fact: gives the capture's fact of a name.
    """
    vram = fact("vram") or {}
    if "gpu" in vram:
        return vram["gpu"]  # type: ignore[no-any-return]
    device = ((fact("spec") or {}).get("options") or {}).get("device", "cpu")
    gpus = (fact("machine") or {}).get("gpus") or []  # NVIDIA's alone, when nobody wrote down which
    return gpus[index_of(device)] if index_of(device) < len(gpus) else None


def _driver(samples: Sequence[DeviceSample], baseline_ns: int, end_ns: int) -> dict[str, Any]:
    """What the driver told of the device: of the worker, of everybody, and how busy it was."""
    inside = [sample for sample in samples if baseline_ns <= sample.t_ns <= end_ns]
    before = next((sample for sample in reversed(samples) if sample.t_ns < baseline_ns), None)
    process = _most(inside, "process_bytes")
    why_not = _NOT_LISTED if inside else _TOO_SHORT if samples else _NO_SAMPLES
    return {
        "process_before_bytes": None if before is None else before.process_bytes,
        "process_bytes": process,
        "process_reason": None if process is not None else why_not,
        "used_bytes": _most(inside, "used_bytes"),
        "least_free_bytes": min((one.free_bytes for one in inside if one.free_bytes is not None), default=None),
        "busy_percent": _most(inside, "busy_percent"),
        "to_device_bytes_per_s": _most(inside, "to_device_bytes_per_s"),
        "from_device_bytes_per_s": _most(inside, "from_device_bytes_per_s"),
    }


def _most(samples: Sequence[DeviceSample], name: str) -> int | None:
    return max((value for one in samples if (value := getattr(one, name)) is not None), default=None)


def _place(events: Sequence[Event], peak: _Seen) -> dict[str, str | None]:
    """Phase and tensor of the peak: it lies between the reading before it and this one."""
    phases = [event.name for event in events[: peak.number] if event.kind is EventKind.PHASE]
    ended = peak.event.kind is EventKind.END and peak.event.pool in (Pool.VRAM, Pool.NONE)
    tensor = peak.event.name if ended else None
    return {"phase": phases[-1] if phases else None, "tensor": tensor}


def _bill(
    events: Sequence[Event],
    ledger: Iterable[LedgerRow],
    baseline_ns: int,
    at_peak: DeviceReading,
    base: DeviceReading,
    context_bytes: int | None,
) -> list[dict[str, Any]]:
    """What the device's peak was made of, up to what the driver counted; what the allocator rounds has its sign."""
    sums: dict[str, int] = defaultdict(int)
    items = shares(ledger)
    for phase, event in _most_live(events, baseline_ns):
        found = items.get((phase, "vram", event.name), [(Item.UNEXPLAINED, event.nbytes)])
        for item, part in parted(found, event.nbytes):
            sums[item] += part
    sums[Item.ALLOCATOR] = at_peak.most_bytes - base.allocated_bytes - sum(sums.values())
    sums[UNUSED] = max(0, _above(at_peak.reserved_bytes, at_peak.most_bytes) or 0)
    sums[CONTEXT] = context_bytes or 0
    return [{"item": item, "bytes": nbytes} for item, nbytes in sums.items() if nbytes]


def _most_live(events: Sequence[Event], baseline_ns: int) -> Iterable[tuple[str, Event]]:
    """What had been made on the device and not released when that was most, with the phase in which it came."""
    phase, live_bytes, most_bytes = "", 0, 0
    live: dict[int, tuple[str, Event]] = {}
    most: list[tuple[str, Event]] = []
    for event in events:
        if event.kind is EventKind.PHASE:
            phase = event.name
        elif event.t_ns < baseline_ns or event.pool is not Pool.VRAM:
            continue
        elif event.kind is EventKind.BEGIN and event.operation is Operation.MATERIALISE:
            live[event.id] = phase, event
            live_bytes += event.nbytes
        elif event.kind is EventKind.RELEASE and event.id in live:
            if live_bytes > most_bytes:
                most_bytes, most = live_bytes, list(live.values())
            live_bytes -= live.pop(event.id)[1].nbytes
    return most if most_bytes >= live_bytes else live.values()
