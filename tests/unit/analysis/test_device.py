"""What a run took of its device, from events and the driver's samples that are made up here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meminspect.analysis.device import CONTEXT, UNUSED, device_document
from meminspect.analysis.device_words import device_lines
from meminspect.capture.records import DeviceSample, Event, EventKind, Operation, Pool
from meminspect.theory.ledger import Item

MIB = 1 << 20
LEDGER = [
    ("build", "materialise", "vram", Item.FLOOR, "a", 30 * MIB),
    ("build", "materialise", "vram", Item.UPCAST, "a", 10 * MIB),
    ("read", "materialise", "vram", Item.DUPLICATE, "a", 20 * MIB),
]


def counted(allocated: int, reserved: int, peak: int) -> str:
    figures = {"allocated_bytes": allocated * MIB, "reserved_bytes": reserved * MIB, "peak_bytes": peak * MIB}
    return json.dumps(figures)


def on_device(t_ns: int, kind: EventKind, id_: int, mib: int, detail: str = "") -> Event:
    return Event(t_ns, kind, Operation.MATERIALISE, Pool.VRAM, id_, mib * MIB, name="a", detail=detail)


EVENTS = [
    Event(10, EventKind.READING, name="baseline", detail=counted(1, 2, 1)),
    Event(11, EventKind.PHASE, name="build"),
    on_device(12, EventKind.BEGIN, 1, 40),
    on_device(13, EventKind.END, 1, 40, counted(42, 62, 42)),
    Event(14, EventKind.PHASE, name="read"),
    on_device(15, EventKind.BEGIN, 2, 20),
    on_device(16, EventKind.END, 2, 20, counted(63, 82, 63)),
    on_device(17, EventKind.RELEASE, 2, 20),
    Event(18, EventKind.READING, name="resident", detail=counted(42, 82, 63)),
    Event(20, EventKind.READING, name="steady", detail=counted(42, 82, 42)),
]


def sample(t_ns: int, process: int | None, *, gpu: int = 0, used: int | None = 900) -> DeviceSample:
    used_bytes = None if used is None else used * MIB
    return DeviceSample(t_ns, gpu, used_bytes, 100 * MIB, None if process is None else process * MIB, 35, 7, None)


def document(samples: list[DeviceSample], why_no_driver: str | None = None) -> dict[str, Any]:
    return device_document(EVENTS, samples, LEDGER, 10, 18, 0, why_no_driver)


def test_given_all_that_can_be_told_then_the_bill_goes_from_the_tensors_to_the_driver_s_figure() -> None:
    found = document([sample(9, 302), sample(12, 350), sample(17, 382), sample(12, 999, gpu=1)])

    assert (found["allocated_bytes"], found["reserved_bytes"]) == (62 * MIB, 80 * MIB)
    assert (found["steady_allocated_bytes"], found["context_bytes"]) == (41 * MIB, 300 * MIB)
    assert found["peak_at"] == {"phase": "read", "tensor": "a"}
    bill = {line["item"]: line["bytes"] // MIB for line in found["bill"]}
    assert bill == {
        Item.FLOOR: 30, Item.UPCAST: 10, Item.DUPLICATE: 20, Item.ALLOCATOR: 2, UNUSED: 19, CONTEXT: 300,
    }  # fmt: skip
    assert found["process_bytes"] == 382 * MIB  # the bill, and the 1 MiB that was there before
    assert (found["busy_percent"], found["to_device_bytes_per_s"], found["from_device_bytes_per_s"]) == (35, 7, None)


@pytest.mark.parametrize(
    ("samples", "why", "reason"),
    [
        ([sample(12, None)], None, "the driver does not list the worker among its processes, as in containers"),
        ([], None, "no driver's library told of the device"),
        ([sample(9, None), sample(19, None)], None, "the load was over between two looks at the driver"),
        ([sample(12, None, used=None)], "it has no memory of its own", "it has no memory of its own"),
    ],
)
def test_given_no_figure_of_the_process_then_the_reason_is_there_and_nothing_is_zero(
    samples: list[DeviceSample], why: str | None, reason: str
) -> None:
    found = document(samples, why)

    assert (found["process_bytes"], found["process_reason"], found["context_bytes"]) == (None, reason, None)
    assert found["allocated_bytes"] == 62 * MIB


def test_given_a_worker_that_died_before_it_looked_then_only_the_driver_s_figures_are_there() -> None:
    found = device_document(EVENTS[1:3], [sample(12, 350)], LEDGER, 10, 18, 0, None)

    assert (found["allocated_bytes"], found["bill"]) == (None, None)
    assert found["reason"] == "the worker ended before its device was looked at"
    assert found["process_bytes"] == 350 * MIB


def test_the_three_figures_are_said_with_what_they_mean() -> None:
    run = {"device": {**document([sample(9, 302), sample(12, 382)]), "unified": True}, "peak": {"rss_bytes": 10 * MIB}}

    assert device_lines(run) == [
        "device: 62.00 MiB allocated at most at a while reading: what tensors take",
        "device: 80.00 MiB reserved: what torch's allocator took of the driver for them",
        "device: 382.00 MiB used by the process, as the driver counts, 300.00 MiB of the device's context included",
        "device = floor 30.00 MiB + dtype upcast 10.00 MiB + duplicate state dict 20.00 MiB + allocator rounding "
        "2.00 MiB + reserved, not allocated 19.00 MiB + device context 300.00 MiB",
        "device: busy up to 35 % of the time, up to 7 B/s over PCIe to it",
        "host and device share one memory: 90.00 MiB of it at most, file pages and copies together",
    ]
    assert device_lines({"device": None}) == []


def counted_by_metal(allocated: int, process: int) -> str:
    figures = {"allocated_bytes": allocated * MIB, "reserved_bytes": None, "peak_bytes": None}
    return json.dumps({**figures, "process_bytes": process * MIB})


def test_given_a_device_whose_torch_counts_no_peak_then_what_is_unknown_has_its_reason_and_is_not_zero() -> None:
    events = [
        Event(10, EventKind.READING, name="baseline", detail=counted_by_metal(1, 9)),
        Event(11, EventKind.PHASE, name="build"),
        on_device(12, EventKind.BEGIN, 1, 40),
        on_device(13, EventKind.END, 1, 40, counted_by_metal(42, 70)),
        Event(18, EventKind.READING, name="resident", detail=counted_by_metal(41, 72)),
    ]

    found = device_document(events, [], LEDGER, 10, 18, 0, "it has no memory of its own")

    assert (found["allocated_bytes"], found["reserved_bytes"], found["context_bytes"]) == (41 * MIB, None, None)
    assert found["allocated_reason"].startswith("this torch counts no peak on the device")
    assert (found["process_bytes"], found["process_reason"]) == (72 * MIB, None)
    assert {line["item"]: line["bytes"] // MIB for line in found["bill"]} == {
        Item.FLOOR: 30, Item.UPCAST: 10, Item.ALLOCATOR: 1,
    }  # fmt: skip
    run = {"device": {**found, "unified": True}, "peak": {"rss_bytes": 10 * MIB}}
    lines = device_lines(run)
    assert lines[1] == (
        "device: what torch's allocator reserved not available: "
        "this torch does not tell what its allocator holds on the device"
    )
    assert lines[2] == "device: 72.00 MiB used by the process, as the driver counts"
    assert lines[-1].startswith("host and device share one memory: 51.00 MiB of it at most")
