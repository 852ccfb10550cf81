"""The content of the golden captures, and the function that writes one: `python golden_capture.py OUT.meminspect`.

A golden file is written once, by the program that introduced its schema version, and never again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meminspect.capture.records import Cached, DeviceSample, Event, EventKind, LogLine, Operation, Pool, Reading, Sample
from meminspect.capture.store import CaptureWriter

STARTED_NS = 1_000_000

FACTS: dict[str, object] = {
    "spec": {"strategy": "naive", "checkpoint": "/models/größe", "repeat_index": 1, "repeat_of": 1},
    "theory": {"floor_bytes": 4096, "bill": [{"item": "floor", "pool": "heap", "bytes": 4096}]},
    "returned": {"t_ns": 9_000_000, "started_ns": 2_000_000},
    "outcome": {"outcome": "completed", "message": "", "died_at": None, "exit_status": 0},
}

# Times here are of the machine's clock; a capture has them from the run's start.
EVENTS = (
    Event(2_000_000, EventKind.READING, reading=Reading(1000, 2000, 0, 3500), name="baseline"),
    Event(2_100_000, EventKind.PHASE, reading=Reading(1000, 2000, 0, 3000), name="read"),
    Event(
        2_200_000, EventKind.BEGIN, Operation.MATERIALISE, Pool.HEAP, 7, 4096, 0, 512,
        name="layers.0.größe", detail="float16 [32, 64]",
    ),
    Event(
        2_300_000, EventKind.END, Operation.MATERIALISE, Pool.HEAP, 7, 4096, exact=True,
        reading=Reading(5096, 2000, 0, 7096), name="layers.0.größe",
    ),
    Event(2_350_000, EventKind.BEGIN, Operation.COPY, Pool.NONE, 8, 2**40, name="layers.0.größe"),
    Event(2_400_000, EventKind.RELEASE, Operation.MATERIALISE, Pool.HEAP, 7, 4096, name="layers.0.größe"),
    Event(2_500_000, EventKind.REPORT, name="finished", detail="{}"),
)  # fmt: skip

SAMPLES = (
    Sample(1_500_000, 1, 2, 3, 4, 5),
    Sample(2_600_000, 10, 20, 30, 40, 2**50, 60, 70, 80, 90),
)

LOG = (LogLine(1_600_000, "stderr", "a warning: 100 % ünïcode"), LogLine(1_700_000, "stdout", ""))

PAGE_CACHE = (Cached(1_400_000, 0, 2**33), Cached(1_400_000, 1, 0), Cached(2_600_000, 1, 4096))

DEVICES = (
    DeviceSample(1_450_000, 0, 2**34, 2**36, 2**30, 40, 2**33, 0),
    DeviceSample(1_450_000, 1, None, None, None, None, None, None),
)

LEDGER = (
    ("build", "materialise", "heap", "floor", "layers.0.größe", 4096),
    ("read", "materialise", "heap", "duplicate state dict", "layers.0.größe", 2048),
    ("copy", "release", "heap", "duplicate state dict", "layers.0.größe", 2048),
)


def write_capture(path: Path, *, close: bool = True) -> CaptureWriter:
    """Write everything above."""
    writer = CaptureWriter(path, STARTED_NS)
    for name, value in FACTS.items():
        writer.fact(name, value)
    writer.ledger(LEDGER)
    writer.append(SAMPLES, EVENTS, LOG, PAGE_CACHE, DEVICES)
    if close:
        writer.close()
    return writer


def relative_events() -> list[Event]:
    """The events as a capture has them."""
    return [event._replace(t_ns=event.t_ns - STARTED_NS) for event in EVENTS]


def relative_samples() -> list[Sample]:
    """The samples as a capture has them."""
    return [sample._replace(t_ns=sample.t_ns - STARTED_NS) for sample in SAMPLES]


def relative_log() -> list[LogLine]:
    """The log as a capture has it."""
    return [line._replace(t_ns=line.t_ns - STARTED_NS) for line in LOG]


def relative_page_cache() -> list[Cached]:
    """What was seen of the page cache as a capture has it."""
    return [row._replace(t_ns=row.t_ns - STARTED_NS) for row in PAGE_CACHE]


def relative_devices() -> list[DeviceSample]:
    """What the driver told of GPUs as a capture has it."""
    return [row._replace(t_ns=row.t_ns - STARTED_NS) for row in DEVICES]


if __name__ == "__main__":
    write_capture(Path(sys.argv[1]))
