"""Workers without a supervisor: what one run of a strategy leaves in the ring, and its ledger in the same words."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from meminspect.capture.batches import expanded
from meminspect.capture.records import Event, EventKind, Operation, Pool
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.worker_process import WorkerProcess
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class WorkerRun:
    """A worker's whole life."""

    strategy: str
    task: LoadTask
    status: int
    events: list[Event]
    lost: int
    log: list[str]

    @property
    def reports(self) -> dict[str, Any]:
        """What it reported, by name."""
        return {event.name: json.loads(event.detail) for event in self.events if event.kind is EventKind.REPORT}

    @property
    def loading(self) -> list[Event]:
        """The events from the baseline to resident."""
        marks = [
            index
            for index, event in enumerate(self.events)
            if event.kind is EventKind.READING and event.name in ("baseline", "resident")
        ]
        return self.events[marks[0] : marks[1]]


def run_worker(
    strategy: str, checkpoint: Path, tiny: Path, options: LoadOptions, scratch: Path | None = None
) -> WorkerRun:
    """Run a strategy in a worker of its own until it ends; what it leaves on disk goes to `scratch`."""
    task = task_for(read_checkpoint(checkpoint), options)
    wanted = {
        "strategy": strategy,
        "checkpoint": str(checkpoint),
        "tiny": str(tiny),
        "heap_bytes": 0,
        "scratch": str(scratch or ""),
        "options": asdict(options),
        "forward": False,
    }
    with WorkerProcess(sys.executable) as worker:
        worker.start(wanted)
        status = worker.wait()
        events = [event for record in worker.ring.drain() for event in expanded(record)]
        lost = worker.ring.lost
        log = [line.text for line in worker.take_log()]
    return WorkerRun(strategy, task, status, events, lost, log)


_FIRST_PARTS = (Item.FLOOR, Item.QUANTISED)  # of an allocation that stands under two items

# Phase, operation, pool, tensor, bytes.
Line = tuple[str, str, str, str, int]


def ledger_lines(run: WorkerRun) -> list[Line]:
    """The steps of a ledger that have events, in the form of `event_lines`.

    Left out are steps of no bytes, what torch makes and drops within one copy, the touches by which a copy, join or
    cast reads a mapping, which its own event implies, and the end of a mapping of which no tensor was a slice. The
    parts of one allocation that stand under several items are one line.
    """
    lines: list[Line] = []
    item, mapped = "", set[str]()
    for step in STRATEGIES[run.strategy].steps(run.task):
        if step.pool is Pool.FILE and step.operation is Operation.MATERIALISE:
            mapped.add(step.tensor)
        implied = step.operation is Operation.TOUCH and step.phase != "touch"
        if not step.nbytes or step.item == Item.WITHIN_COPY or implied:
            continue
        if step.operation is Operation.RELEASE and step.pool is Pool.FILE:
            line = _unmapped(step.phase)
            if step.tensor in mapped and lines[-1:] != [line]:  # one for each tensor, and one for a run of them
                lines.append(line)
            continue
        line = (step.phase, step.operation.name, step.pool.name, step.tensor, step.nbytes)
        if lines and lines[-1][:4] == line[:4] and step.item != item and item in _FIRST_PARTS:
            line = (*line[:4], line[4] + lines.pop()[4])
        item = step.item
        lines.append(line)
    return lines


def event_lines(run: WorkerRun) -> list[Line]:
    """What the events say was begun or released, in order.

    A mapping's pages go with its file's last tensor, and only if any has been looked at: the releases of the mapped
    tensors of a file are one line, where the last of them is.
    """
    lines: list[Line] = []
    mappings = _Mappings(run.task)
    phase = ""
    for event in run.loading:
        if event.kind is EventKind.PHASE:
            phase = event.name
        elif event.kind is EventKind.BEGIN and event.nbytes:
            lines.append((phase, event.operation.name, event.pool.name, event.name, event.nbytes))
            mappings.begin(event)
        elif event.kind is EventKind.RELEASE and event.pool is Pool.FILE:
            if mappings.pages_go_with(event) and lines[-1:] != [_unmapped(phase)]:
                lines.append(_unmapped(phase))
        elif event.kind is EventKind.RELEASE and event.nbytes:
            lines.append((phase, "RELEASE", event.pool.name, event.name, event.nbytes))
    return lines


class _Mappings:
    """Which tensors are mapped, and of which files any page has been looked at."""

    def __init__(self, task: LoadTask) -> None:
        # A file stays mapped until its last tensor has been read, one by one or all at once.
        self._waiting = Counter(storage.file for storage in task.checkpoint.storages if storage.nbytes)
        self._mapped: dict[int, tuple[int, str]] = {}  # id → file, tensor
        self._touched: set[int] = set()

    def begin(self, event: Event) -> None:
        if event.operation is Operation.MATERIALISE and event.pool is Pool.FILE:
            self._mapped[event.id] = event.file, event.name
            self._waiting[event.file] -= 1
        elif event.operation is not Operation.ASSIGN:
            self._touched.update(file for file, name in self._mapped.values() if name == event.name)

    def pages_go_with(self, event: Event) -> bool:
        """Whether this release is of the last tensor of a file that has pages in memory."""
        file, _ = self._mapped.pop(event.id, (-1, ""))
        if (
            file not in self._touched
            or self._waiting[file] > 0
            or any(other == file for other, _ in self._mapped.values())
        ):
            return False
        self._touched.discard(file)
        return True


def _unmapped(phase: str) -> Line:
    return (phase, "RELEASE", "FILE", "", 0)


def finished_bytes(events: Iterable[Event]) -> int:
    """What a progress bar adds up."""
    return sum(event.nbytes for event in events if event.kind is EventKind.END)
