"""Where a worker is and what it holds, as its events and the samples of it tell: live, or replayed from a capture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.capture.records import EventKind

if TYPE_CHECKING:
    from meminspect.capture.records import Event, Resident, Sample

__all__ = ["InUse", "WorkerState"]

_NEVER: Final = -1


class InUse(NamedTuple):
    """Bytes above the baseline; None where the system does not tell."""

    rss_bytes: int
    heap_bytes: int | None
    file_bytes: int | None
    pinned_bytes: int | None
    swap_bytes: int | None


class WorkerState:
    """The phase, the tensors in flight, what has been reported, and what was read last of its memory."""

    def __init__(self) -> None:
        self.phase = ""
        self.reports: dict[str, Any] = {}
        self.last_words = ""  # the last line on stderr
        self.mark = ""  # the tensor being worked on that no event tells of yet
        self.last: Resident | None = None
        self._last_ns = _NEVER
        self._baseline: Resident | None = None
        self._baseline_ns = _NEVER
        self._swap_bytes: int | None = None
        self._swap_before_bytes: int | None = None
        self._in_flight: dict[int, str] = {}

    @property
    def tensor(self) -> str | None:
        """The tensor that was last begun and has not ended."""
        return next(reversed(self._in_flight.values()), None) or self.mark or None

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        if event.reading is not None:
            self._read(event.t_ns, event.reading.resident)
        if event.kind is EventKind.PHASE:
            self.phase = event.name
        elif event.kind is EventKind.BEGIN:
            self._in_flight[event.id] = event.name
        elif event.kind is EventKind.END:
            self._in_flight.pop(event.id, None)
        elif event.kind is EventKind.REPORT:
            self.reports[event.name] = json.loads(event.detail)
        elif event.kind is EventKind.READING and event.name == "baseline":
            # Where the worker cannot see it itself, what was seen last from outside is what it began with.
            self._baseline = self.last if event.reading is None else event.reading.resident
            self._baseline_ns = event.t_ns

    def sampled(self, sample: Sample) -> None:
        """Take what was seen from outside into account; samples come in order, before or after the events."""
        self._read(sample.t_ns, sample.resident)
        self._swap_bytes = sample.swap_bytes
        if self._baseline is None or sample.t_ns <= self._baseline_ns:
            self._swap_before_bytes = sample.swap_bytes

    def in_use(self, exact: Resident | None = None) -> InUse | None:
        """What it held when it was last looked at; None before there was a baseline.

        Args:
            exact: what somebody else saw at the very end.
        """
        held, base = exact or self.last, self._baseline
        if base is None or held is None:
            return None
        swap, before = self._swap_bytes, self._swap_before_bytes
        return InUse(*held.above(base), None if swap is None or before is None else swap - before)

    def _read(self, t_ns: int, held: Resident) -> None:
        if t_ns >= self._last_ns:
            self._last_ns, self.last = t_ns, held
