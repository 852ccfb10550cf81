"""Captures of runs that never took place: a strategy's own ledger, played at a fixed pace by a fixed clock.

So theory, bill, tensors and timeline agree with each other as those of a real run do, and every file is the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from meminspect.analysis.advice import better_than
from meminspect.analysis.describe import checkpoint_document, theory_document
from meminspect.capture.records import Event, EventKind, LogLine, Operation, Pool, Reading, Sample
from meminspect.capture.store import CaptureWriter
from meminspect.page_cache import Residency
from meminspect.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meminspect.strategies import LoadTask
    from meminspect.theory.ledger import Step

MIB, GIB = 1 << 20, 1 << 30
STARTED_NS = 1_000_000_000
BASELINE = Reading(216 * MIB, 87 * MIB, 32 * MIB, 335 * MIB)
USABLE_BYTES = 14 * GIB
MACHINE = {
    "ram_total_bytes": 16 * GIB, "ram_available_bytes": USABLE_BYTES, "memory_limit_bytes": None, "swap_free_bytes": 0,
    "gpus": [], "torch_version": "2.13.0", "kernel": "6.12.0", "thp": "madvise",
}  # fmt: skip
GPU = {"name": "NVIDIA Stub", "total_bytes": 24 * GIB, "free_bytes": 20 * GIB, "unified": False}
NO_GPU = "no NVIDIA driver (libnvidia-ml.so.1 not found)"
BYTES_PER_NS = {"build": 0.4, "read": 1.2, "copy": 1.6, "cast": 0.8, "quantise": 0.1, "touch": 12.0}
SAMPLE_EVERY_NS = 20_000_000


@dataclass
class Story:
    """What happens in a run, and how it ends.

    Args:
        strategy: whose ledger is played.
        share: how much of it, from 0 to 1.
        outcome: how it ended; None while it is under way.
        message: in words.
        gpu: there is a device, which is used by somebody else.
        limit_bytes: of the run.
        rename: the tensors' names are made from theirs.
        log: what the loader printed.
    """

    strategy: str
    share: float = 1.0
    outcome: str | None = "completed"
    message: str = ""
    gpu: bool = False
    limit_bytes: int | None = None
    rename: str = "{}"
    log: tuple[str, ...] = ()


@dataclass
class _Player:
    """Turns steps into what the worker would report, and what would be seen of it from outside."""

    task: LoadTask
    story: Story
    t_ns: int = STARTED_NS + 3_200_000_000
    heap: int = BASELINE.heap_bytes
    file: int = BASELINE.file_bytes
    high: int = 0
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ids: dict[tuple[str, Pool], int] = field(default_factory=dict)
    phase: str = ""

    def play(self, steps: list[Step]) -> None:
        self.events.append(Event(self.t_ns, EventKind.READING, reading=BASELINE, name="baseline"))
        self.report("baseline", {**BASELINE._asdict(), "resets": True})
        self.sample()
        shapes = {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in self.task.checkpoint.tensors}
        whole = sum(step.nbytes for step in steps)
        done, last = 0, steps[0]
        for step in steps:
            if done > self.story.share * whole:
                self.begin(last, shapes)  # in flight when it ends
                return
            done, last = done + step.nbytes, step
            self.step(step, shapes)
        if self.story.outcome is not None:
            self.events.append(Event(self.t_ns, EventKind.READING, reading=self.reading, name="resident"))

    @property
    def reading(self) -> Reading:
        self.high = max(self.high, self.heap + self.file + BASELINE.pinned_bytes)
        return Reading(self.heap, self.file, BASELINE.pinned_bytes, self.high)

    def report(self, name: str, value: object) -> None:
        self.events.append(Event(self.t_ns, EventKind.REPORT, name=name, detail=json.dumps(value)))

    def sample(self) -> None:
        elapsed = self.t_ns - STARTED_NS
        vram = 4 * GIB + elapsed % (8 * GIB) if self.story.gpu else None
        self.samples.append(Sample(self.t_ns, *self.reading[:3], 0, self.high, vram_used_bytes=vram))

    def step(self, step: Step, shapes: dict[str, tuple[str, list[int]]]) -> None:
        if step.phase != self.phase:
            if step.phase == "touch":
                self.report("returned", {})
            self.phase = step.phase
            self.events.append(Event(self.t_ns, EventKind.PHASE, reading=self.reading, name=step.phase))
        if step.operation is Operation.TOUCH and step.phase != "touch":
            self.file += step.nbytes
        elif step.operation is Operation.RELEASE:
            self.release(step)
        else:
            self.work(step, shapes)

    def release(self, step: Step) -> None:
        self.heap -= step.nbytes if step.pool is Pool.HEAP else 0
        self.file -= step.nbytes if step.pool is Pool.FILE else 0
        id_ = self.ids.pop((step.tensor, step.pool), 0)
        self.events.append(
            Event(
                self.t_ns, EventKind.RELEASE, Operation.MATERIALISE, step.pool, id_, step.nbytes, name=self.name(step)
            )
        )

    def work(self, step: Step, shapes: dict[str, tuple[str, list[int]]]) -> None:
        id_ = self.begin(step, shapes)
        mapped = step.pool is Pool.FILE and step.operation is Operation.MATERIALISE
        took = 1000 if mapped or step.operation is Operation.ASSIGN else int(step.nbytes / BYTES_PER_NS[step.phase])
        self.pass_time(step, max(took, 1000))
        self.events.append(
            Event(self.t_ns, EventKind.END, step.operation, step.pool, id_, step.nbytes, exact=True,
                  reading=self.reading, name=self.name(step))
        )  # fmt: skip

    def begin(self, step: Step, shapes: dict[str, tuple[str, list[int]]]) -> int:
        id_ = len(self.events)
        if step.operation is Operation.MATERIALISE:
            self.ids[step.tensor, step.pool] = id_
        dtype, shape = shapes[step.tensor]
        dtypes = {"build": "float32", "copy": f"{dtype} → float32"}.get(step.phase, dtype)
        self.events.append(
            Event(self.t_ns, EventKind.BEGIN, step.operation, step.pool, id_, step.nbytes, 0,
                  name=self.name(step), detail=f"{dtypes} {shape}")
        )  # fmt: skip
        return id_

    def pass_time(self, step: Step, took: int) -> None:
        """Memory comes page by page, and is seen to come."""
        heap = step.nbytes if step.operation is Operation.MATERIALISE and step.pool is Pool.HEAP else 0
        file = step.nbytes if step.operation is Operation.TOUCH else 0
        begun_ns, heap_before, file_before = self.t_ns, self.heap, self.file
        while begun_ns + took - self.t_ns > SAMPLE_EVERY_NS:
            self.t_ns += SAMPLE_EVERY_NS
            part = (self.t_ns - begun_ns) / took
            self.heap, self.file = heap_before + int(part * heap), file_before + int(part * file)
            self.sample()
        self.t_ns = begun_ns + took
        self.heap, self.file = heap_before + heap, file_before + file
        self.sample()

    def name(self, step: Step) -> str:
        return self.story.rename.format(step.tensor)


def write(path: Path, task: LoadTask, story: Story) -> Path:
    """Write a run's capture; of one under way as it is at this moment."""
    writer = CaptureWriter(path, STARTED_NS)
    for name, value in _facts(path, task, story):
        writer.fact(name, value)
    if story.outcome == "refused":
        writer.fact("outcome", _outcome(story, None, None))
        writer.close()
        return path
    strategy = STRATEGIES[story.strategy]
    writer.ledger(
        (step.phase, step.operation.name.lower(), step.pool.name.lower(), step.item, step.tensor, step.nbytes)
        for step in strategy.steps(task)
    )
    player = _Player(task, story)
    early = [(200_000_000, "import"), (1_500_000_000, "warm-up")]
    player.events += [Event(STARTED_NS + t, EventKind.PHASE, name=name) for t, name in early]
    if story.share:
        player.play(_merged(strategy.steps(task)))
    log = [LogLine(STARTED_NS + 10 * number, "stderr", line) for number, line in enumerate(story.log)]
    writer.append(player.samples, player.events, log)
    _end(writer, task, story, player)
    return path


def _merged(steps: Iterator[Step]) -> list[Step]:
    """One allocation that stands under several items is one."""
    merged: list[Step] = []
    for step in steps:
        if merged and step.phase == "build" and merged[-1].tensor == step.tensor:
            merged[-1] = merged[-1]._replace(nbytes=merged[-1].nbytes + step.nbytes)
        else:
            merged.append(step)
    return merged


def _facts(path: Path, task: LoadTask, story: Story) -> Iterator[tuple[str, Any]]:
    strategy = STRATEGIES[story.strategy]
    theory = strategy.theory(task)
    options = {"device": "cpu", "dtype": None, "init_dtype": "float32"}
    yield "spec", {"checkpoint": str(task.checkpoint.path), "strategy": story.strategy, "capture": str(path),
                   "options": options, "limit_bytes": story.limit_bytes, "repeat_index": 1, "repeat_of": 1}  # fmt: skip
    yield "started", {"wall": "2026-11-24T12:00:00+00:00", "monotonic_ns": STARTED_NS}
    fractions = [Residency(1.0, "")] * len(task.checkpoint.files)
    yield "checkpoint", checkpoint_document(task.checkpoint, task.architecture, fractions, "ext4")
    yield "machine", {**MACHINE, "gpus": [GPU] if story.gpu else []}
    yield "theory", theory_document(theory)
    yield "plan", {"work_bytes": theory.work_bytes, "usable_bytes": USABLE_BYTES}
    yield "recipe", strategy.recipe(task)
    yield "vram", {"reason": "" if story.gpu else NO_GPU}


def _end(writer: CaptureWriter, task: LoadTask, story: Story, player: _Player) -> None:
    if story.outcome is None:
        return
    elapsed_ns, began_ns = player.t_ns, STARTED_NS + 3_200_000_000
    if story.outcome == "completed":
        writer.fact("returned", {"t_ns": elapsed_ns - 50_000_000, "started_ns": began_ns})
        writer.fact("resident", {"t_ns": elapsed_ns, "started_ns": began_ns})
        whole = [1.0] * len(task.checkpoint.files)
        writer.fact(
            "cache",
            {"fraction_before": 1.0, "fraction_after": 1.0, "before": whole, "after": whole, "reasons": {}},
        )
        count = len(task.checkpoint.tensors)
        writer.fact("tensors", {"expected": count, "verified": count, "mismatched": 0, "missing": 0, "unexpected": 0})
    began = {"read_bytes": 0, "minor_faults": 20_000, "major_faults": 12}
    ended = {"read_bytes": 8 << 20, "minor_faults": 700_000, "major_faults": 40}
    writer.fact("io", {"before": began, "after": ended if story.outcome == "completed" else None})
    better = better_than(story.strategy, task, min(USABLE_BYTES, story.limit_bytes or USABLE_BYTES))
    writer.fact("better", None if story.outcome == "cancelled" else better)
    flying = player.events[-1] if story.share < 1 and story.share else None
    writer.fact("outcome", _outcome(story, player.phase or None, flying.name if flying else None))
    writer.close()


def _outcome(story: Story, phase: str | None, tensor: str | None) -> dict[str, Any]:
    died_at = None if story.outcome == "completed" else {"phase": phase, "tensor": tensor}
    message = story.message + (f" in phase '{phase}' at {tensor}" if died_at and tensor else "")
    return {"outcome": story.outcome, "message": message, "died_at": died_at, "exit_status": None}


class Live:
    """A run under way, whose capture grows when a test says so; `write` makes those that do not.

    Args:
        path: where the capture is created.
        task: what is loaded.
        story: the run as it will have been.
    """

    def __init__(self, path: Path, task: LoadTask, story: Story) -> None:
        self._task, self._story = task, story
        self._writer = CaptureWriter(path, STARTED_NS)
        for name, value in _facts(path, task, story):
            self._writer.fact(name, value)
        self._player = _Player(task, story)
        self._events, self._samples = self._player.events, self._player.samples
        self._begins_ns = self._player.t_ns
        self._events += [Event(STARTED_NS, EventKind.PHASE, name="import")]
        self._player.play(_merged(STRATEGIES[story.strategy].steps(task)))
        self._until(STARTED_NS)

    def reaches(self, share: float) -> None:
        """Let so much of the load's time have passed, from 0 at its beginning to 1."""
        self._until(self._begins_ns + int(share * (self._player.t_ns - self._begins_ns)))

    def prints(self, line: str) -> None:
        """Let the loading code print a line."""
        self._writer.append([], [], [LogLine(STARTED_NS, "stderr", line)])

    def ends(self, outcome: str) -> None:
        """Come to an end: what has not happened until now happens if it is *completed*, and else never does."""
        if outcome == "completed":
            self.reaches(1)
        else:
            message = "" if outcome == "completed" else outcome
            self._story = replace(self._story, outcome=outcome, message=message)
        _end(self._writer, self._task, self._story, self._player)

    def _until(self, t_ns: int) -> None:
        events = [event for event in self._events if event.t_ns <= t_ns]
        samples = [sample for sample in self._samples if sample.t_ns <= t_ns]
        self._writer.append(samples, events, [])
        del self._events[: len(events)], self._samples[: len(samples)]
