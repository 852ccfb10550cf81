"""One run as its capture grows: live, replayed or compared, it is read by the same code."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.analysis.confinement import confined_document, room_under
from meminspect.analysis.operations import Operations
from meminspect.analysis.progress import RunProgress
from meminspect.analysis.reduction import Series, Timeline
from meminspect.analysis.run import run_document
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.capture.records import EventKind
from meminspect.capture.store import CaptureReader
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Self

    from meminspect.analysis.operations import TensorOperation
    from meminspect.capture.records import Event, LogLine, Resident, Sample

__all__ = ["Held", "RunFollower", "RunView"]

_BATCH: Final = 20_000  # rows a look: a capture of an hour is shown while it is still being read
_FACTS: Final = ("spec", "started", "checkpoint", "machine", "theory", "plan", "recipe", "vram", "pools")


class Held(NamedTuple):
    """Bytes above the baseline by pool; where the system tells no pools, all of them are undivided."""

    heap_bytes: int = 0
    file_bytes: int = 0
    pinned_bytes: int = 0
    undivided_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that is resident."""
        return sum(self)


_NOTHING: Final = Held()
_EMPTY: Final = Series()


@dataclass(frozen=True, slots=True, eq=False)
class RunView:
    """A run as far as its capture has got: what one frame is drawn from.

    Args:
        capture: where it is recorded.
        facts: what is known for the whole run, by the capture's names; absent until it is.
        preparing: what is done before the worker may start, in words; empty when nothing is.
        phase: the phase that it is in; empty before the first.
        steps: begin of each phase before the load in ns since the run's start, and its name.
        phases: begin of each phase of the load in ns since the load began, and its name.
        tensor: the tensor in flight, or the last one.
        done_bytes: finished work, of `facts["plan"]["work_bytes"]` in all.
        load_ns: how long the load has been going on, to *resident* at most; None before it began.
        load_began_ns: when that was, since the run's start.
        returned_ns: when the loading code returned, since the load began; None before.
        resident: whether every page of the model has been touched: what comes then is no part of the load.
        held: memory now.
        peaks: the highest of each pool.
        peak_bytes: the highest of the process.
        peak_ns: when that was read, since the load began.
        baseline: what the process held before the load.
        series: memory since the load began.
        operations: what happened to tensors; grows under the reader's eyes.
        log: what the loading code printed.
        outcome: how it ended; None while it runs.
        result: RUN of the JSON contract, once it has ended.
    """

    capture: Path
    facts: dict[str, Any] = field(default_factory=dict)
    preparing: str = ""
    phase: str = ""
    steps: tuple[tuple[int, str], ...] = ()
    phases: tuple[tuple[int, str], ...] = ()
    tensor: str = ""
    done_bytes: int = 0
    load_ns: int | None = None
    load_began_ns: int = 0
    returned_ns: int | None = None
    resident: bool = False
    held: Held = _NOTHING
    peaks: Held = _NOTHING
    peak_bytes: int = 0
    peak_ns: int = 0
    baseline: Resident | None = None
    series: Series = _EMPTY
    operations: Sequence[TensorOperation] = ()
    log: tuple[LogLine, ...] = ()
    outcome: dict[str, Any] | None = None
    result: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for; empty while it is unknown."""
        found: dict[str, Any] | None = self.facts.get("spec")
        return found or {}

    @property
    def strategy(self) -> str:
        """The strategy's id; empty while it is unknown."""
        return str(self.spec.get("strategy", ""))

    @property
    def work_bytes(self) -> int:
        """All the work there is, by the theory; 0 while unknown."""
        return int((self.facts.get("plan") or {}).get("work_bytes") or 0)

    @property
    def theory_bytes(self) -> int | None:
        """The predicted peak of the process above its baseline, under its limit if it has one."""
        nbytes: int | None = (self.theory or {}).get("peak_rss_bytes")
        return nbytes

    @property
    def theory(self) -> dict[str, Any] | None:
        """THEORY of the JSON contract, under the run's limit; in the end as far as that held."""
        found: dict[str, Any] | None = (self.result or {}).get("theory")
        room_bytes = room_under(self._limit_bytes, self._baseline_heap_bytes)
        return found or confined_document(self.facts.get("theory"), room_bytes)

    @property
    def _limit_bytes(self) -> int | None:
        nbytes: int | None = self.spec.get("limit_bytes")
        return nbytes

    @property
    def tells_pools(self) -> bool:
        """Whether it is known which pool memory belongs to."""
        return self.baseline is None or self.baseline.heap_bytes is not None

    @property
    def _baseline_heap_bytes(self) -> int:
        heap_bytes = None if self.baseline is None else self.baseline.heap_bytes
        return PROCESS_BYTES if heap_bytes is None else heap_bytes

    @property
    def ceiling_bytes(self) -> int | None:
        """What the process may take above its baseline: what the machine had left, or the run's limit.

        Of the baseline only what cannot be reclaimed counts: its libraries' pages are shared, and charged to others.
        """
        usable_bytes = (self.facts.get("plan") or {}).get("usable_bytes")
        heap_bytes, limited = self._baseline_heap_bytes, room_under(self._limit_bytes, self._baseline_heap_bytes)
        # The ring of events is charged to us, not to a limit.
        ours_bytes = 0 if self.baseline is None else self.baseline.pinned_bytes or 0
        rooms: list[int] = [] if usable_bytes is None else [usable_bytes - heap_bytes - ours_bytes]
        rooms += [] if limited is None else [limited]
        return max(0, min(rooms)) if rooms else None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.result is not None

    @property
    def died(self) -> bool:
        """Whether the load began and did not come to its end."""
        return self.baseline is not None and self.outcome is not None and self.outcome["outcome"] != "completed"

    def document(self, name: str, *, waits: bool) -> dict[str, Any]:
        """RUN of the JSON contract, as far as it goes: what a table of runs is made from while some are under way.

        Args:
            name: the strategy, while the capture does not tell yet.
            waits: it will be run, if it has not been.
        """
        if self.result is not None:
            return self.result
        known = self.baseline is not None
        pools = self.peaks[:3] if known and self.tells_pools else (None, None, None)
        return {
            "strategy": self.strategy or name,
            "outcome": "running" if self.facts else "waiting" if waits else "not_run",
            "peak": {
                **dict(zip(Held._fields, pools, strict=False)),
                "rss_bytes": self.peak_bytes if known else None,
            },
            "theory": self.theory,
            "returned_s": None,
            "resident_s": None,
            "repeat": {"index": 1, "of": 1},
        }


class RunFollower:
    """Reads what is new in one capture at every `poll`; for one thread.

    Args:
        capture: its file.
        awaited: it may not be there yet, or be in the making.

    Attributes:
        reader: the capture as it has been opened; None before.
    """

    def __init__(self, capture: Path, *, awaited: bool = False) -> None:
        self.reader: CaptureReader | None = None
        self._view = RunView(capture)
        self._awaited = awaited
        self._progress = RunProgress()
        self._operations = Operations()
        self._timeline = Timeline()
        self._seq = 0
        self._log_lines = 0
        self._sampled_ns = -1
        self._window = _Window()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Whether the run has ended, and all of it has been read."""
        return self._view.ended

    def open(self) -> CaptureReader:
        """The capture, opened unless it is.

        Raises:
            CaptureError: it cannot be read.
        """
        if self.reader is None:
            self.reader = CaptureReader(self._view.capture)
        return self.reader

    def close(self) -> None:
        """Close the file; the next poll opens it again, and goes on from where it was."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def poll(self) -> tuple[RunView, bool]:
        """The run as it is now, and whether more is waiting to be read at once.

        Raises:
            CaptureError: the capture cannot be read, or is damaged.
        """
        if self._view.ended:
            return self._view, False
        try:
            reader = self.open()
        except CaptureError:
            if not self._awaited:
                raise
            return self._view, False
        return self._look(reader)

    def _look(self, reader: CaptureReader) -> tuple[RunView, bool]:
        outcome = reader.fact("outcome")  # first: once it is there, nothing comes behind what is read below
        # Before the events: whatever may be written meanwhile, the events of these samples' time are there.
        samples = reader.samples(self._sampled_ns, _BATCH)
        events = reader.events(self._seq, _BATCH)
        behind = len(events) == _BATCH or len(samples) == _BATCH
        if len(events) == _BATCH:  # only they tell whether a sample is of the load: none is taken ahead of them
            samples = [sample for sample in samples if sample.t_ns <= events[-1][1].t_ns]
        if events:
            self._seq = events[-1][0]
            self._apply([event for _, event in events])
        if samples:
            self._sampled_ns = samples[-1].t_ns
            self._sample(samples)
        self._view = dataclasses.replace(
            self._view,
            facts=self._facts(reader),
            preparing=reader.fact("preparing") or "",
            phase=self._progress.phase,
            tensor=self._progress.tensor,
            done_bytes=self._progress.done_bytes,
            series=self._timeline.frozen(),
            operations=self._operations.rows,
            log=self._log(reader),
            **self._window.fields(),
        )
        if outcome is not None and not behind:
            self._view = dataclasses.replace(self._view, outcome=outcome, result=run_document(reader))
        return self._view, behind

    def _facts(self, reader: CaptureReader) -> dict[str, Any]:
        known = self._view.facts
        found = {name: value for name in _FACTS if name not in known and (value := reader.fact(name)) is not None}
        return {**known, **found} if found else known

    def _log(self, reader: CaptureReader) -> tuple[LogLine, ...]:
        new = reader.log(self._log_lines)
        self._log_lines += len(new)
        return (*self._view.log, *new)

    def _apply(self, events: Sequence[Event]) -> None:
        self._progress.update(events)
        self._operations.update(events)
        for event in events:
            if event.kind is EventKind.READING and event.name == "baseline":
                self._timeline = Timeline()
            self._window.apply(event)
            if event.reading is not None and self._window.covers(event.t_ns):
                self._add(event.t_ns, event.reading.resident, event.reading.high_water_bytes, None)

    def _sample(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._window.see(sample)
            if self._window.covers(sample.t_ns):
                # A sample may have no mark.
                self._add(sample.t_ns, sample.resident, sample.high_water_bytes or 0, sample.vram_used_bytes)

    def _add(self, t_ns: int, resident: Resident, mark_bytes: int, vram_bytes: int | None) -> None:
        since_ns, held = self._window.take(t_ns, resident, mark_bytes)
        self._timeline.add(since_ns, *held[:3], vram_bytes, held.undivided_bytes)


class _Window:
    """The stretch of time that the peak is taken from, while it is still going on: from the baseline to *resident*."""

    def __init__(self) -> None:
        self.began_ns: int | None = None
        self._end_ns: int | None = None
        self._last_ns = 0
        self._seen: Resident | None = None  # last from outside, before the load
        self._unseen = False  # the worker cannot see itself, and begins with what was seen last from outside
        self._baseline: Resident | None = None
        self._returned_ns: int | None = None
        self._mark_bytes = 0  # at the baseline
        self._old_mark_bytes = 0  # where nobody could reset it: a mark no higher than this is not of the load
        self._steps: list[tuple[int, str]] = []
        self._phases: list[tuple[int, str]] = []
        self._held = self._peaks = Held()
        self._peak_bytes = self._peak_ns = 0

    def apply(self, event: Event) -> None:
        if event.kind is EventKind.READING and event.name == "baseline":
            self.began_ns = self._last_ns = event.t_ns
            self._unseen = event.reading is None
            self._baseline = self._seen if event.reading is None else event.reading.resident
            self._mark_bytes = 0 if event.reading is None else event.reading.high_water_bytes
            # A script may set it anew: what was before is no part of it.
            self._held = self._peaks = Held()
            self._peak_bytes = self._peak_ns = 0
            self._phases.clear()
        elif event.kind is EventKind.REPORT and event.name == "baseline":
            if not json.loads(event.detail).get("resets", True):
                self._old_mark_bytes = self._mark_bytes
        elif event.kind is EventKind.REPORT and event.name == "returned" and self.began_ns is not None:
            self._returned_ns = event.t_ns - self.began_ns
        elif event.kind is EventKind.READING and event.name == "resident":
            self._end_ns = event.t_ns
        elif event.kind is EventKind.PHASE and self.began_ns is None:
            self._steps.append((event.t_ns, event.name))
        elif event.kind is EventKind.PHASE and self.began_ns is not None and self._end_ns is None:
            self._phases.append((event.t_ns - self.began_ns, event.name))

    def covers(self, t_ns: int) -> bool:
        """Whether a moment lies in it, as far as is known."""
        if self.began_ns is None or self._baseline is None:
            return False
        return t_ns >= self.began_ns and (self._end_ns is None or t_ns <= self._end_ns)

    def see(self, sample: Sample) -> None:
        """Keep what was seen last from outside before the load, or first where nothing was before."""
        early = self.began_ns is None or sample.t_ns <= self.began_ns
        if early or self._seen is None:
            self._seen = sample.resident
        if self._unseen and (early or self._baseline is None):
            self._baseline = self._seen

    def take(self, t_ns: int, resident: Resident, mark_bytes: int) -> tuple[int, Held]:
        """A reading's time since the load began, and what it says above the baseline."""
        base = self._baseline
        assert base is not None  # noqa: S101 - `covers` has said so
        assert self.began_ns is not None  # noqa: S101
        rss_bytes, *pools = resident.above(base)
        known = [nbytes for nbytes in pools if nbytes is not None]
        held = Held(*known) if known else Held(undivided_bytes=rss_bytes)
        since_ns = t_ns - self.began_ns
        total = held.total_bytes
        if mark_bytes > self._old_mark_bytes and since_ns > 0:
            total = max(total, mark_bytes - base.rss_bytes)
        if (total, -since_ns) > (self._peak_bytes, -self._peak_ns):  # the first of equals, in whatever order they come
            self._peak_bytes, self._peak_ns = total, since_ns
        self._peaks = Held(*map(max, self._peaks, held))
        if t_ns >= self._last_ns:
            self._last_ns, self._held = t_ns, held
        return since_ns, held

    def fields(self) -> dict[str, Any]:
        """What a view has of it."""
        if self.began_ns is None:
            return {"steps": tuple(self._steps)}
        return {
            "steps": tuple(self._steps),
            "load_ns": (self._end_ns or self._last_ns) - self.began_ns,
            "load_began_ns": self.began_ns,
            "returned_ns": self._returned_ns,
            "resident": self._end_ns is not None,
            "phases": tuple(self._phases),
            "held": self._held,
            "peaks": self._peaks,
            "peak_bytes": self._peak_bytes,
            "peak_ns": self._peak_ns,
            "baseline": self._baseline,
        }
