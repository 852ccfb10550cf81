"""Turns what happens in the worker into event records, with the memory readings that belong to them.

The high-water mark is the process's, not a tensor's: it is reset, and called exact, only around an operation that no
other overlaps. Every reset is preceded by a reading, so that no peak is forgotten.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading
from meminspect.capture.ring import pack

if TYPE_CHECKING:
    from meminspect.capture.ring import RingWriter
    from meminspect.sampling.procfs import ProcessMemory

__all__ = ["SMALL_BYTES", "Recorder"]

SMALL_BYTES: Final = 1 << 20
"""Below this a tensor gets no reading of its own: the kernel's counters are no finer than some 256 KiB."""


def _moves_memory(operation: Operation, pool: Pool, nbytes: int) -> bool:
    """Whether an operation is worth two readings: a name changing hands, or a mapping not yet touched, is not."""
    nothing_yet = operation is Operation.ASSIGN or (operation is Operation.MATERIALISE and pool is Pool.FILE)
    return nbytes >= SMALL_BYTES and not nothing_yet


_VITAL: Final = (EventKind.PHASE, EventKind.READING, EventKind.REPORT)
"""What the run's result hangs on: these find room in the ring when tensors' events no longer do."""


class Recorder:
    """Writes events to the ring. Safe to call from several threads and from weakref callbacks.

    `enabled` is False during the warm-up: the hooks run, but nothing is recorded.
    """

    def __init__(self, ring: RingWriter, memory: ProcessMemory) -> None:
        self.enabled = False
        self._ring = ring
        self._memory = memory
        # Re-entrant: a release may strike, through the garbage collector, while an event is being written.
        self._lock = threading.RLock()
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._writing = False
        self._next_id = 0
        # id → whether the mark was reset at its begin and no other operation has overlapped it since
        self._in_flight: dict[int, bool] = {}
        self._event_ns = array("d")
        self.charged_ns = 0
        self.phase_name = ""

    @property
    def hooks_s(self) -> float:
        """Seconds spent on behalf of recording so far; the hooks' own function calls, about 1 µs each, come on top."""
        return self.charged_ns / 1e9

    def charge(self, started_ns: int, charged_before_ns: int) -> None:
        """Account for all that has happened since a moment, together with what was charged for parts of it."""
        if self.enabled:
            self.charged_ns = charged_before_ns + time.monotonic_ns() - started_ns

    @property
    def events(self) -> int:
        """Events recorded so far."""
        return len(self._event_ns)

    @property
    def event_us_median(self) -> float | None:
        """Median cost of an event in microseconds."""
        return statistics.median(self._event_ns) / 1e3 if self._event_ns else None

    def phase(self, name: str) -> None:
        """A phase begins, and the one before ends; the same phase again is not news."""
        if name != self.phase_name:
            started_ns, charged_ns = time.monotonic_ns(), self.charged_ns
            self.phase_name = name
            self._record(EventKind.PHASE, name=name, read=True, reset=not self._in_flight)
            self.charge(started_ns, charged_ns)

    def begin(
        self,
        operation: Operation,
        pool: Pool,
        name: str,
        nbytes: int,
        *,
        detail: str = "",
        file: int = -1,
        offset: int = -1,
    ) -> int:
        """An operation on a tensor is about to begin; returns the id for `end` and `release`."""
        started_ns, charged_ns = time.monotonic_ns(), self.charged_ns
        with self._lock:
            self._next_id += 1
            id_ = self._next_id
            read = not self._in_flight and _moves_memory(operation, pool, nbytes)
            for other in self._in_flight:
                self._in_flight[other] = False
            reset = self._record(
                EventKind.BEGIN, operation, pool, id_, nbytes, file, offset, name=name, detail=detail,
                read=read, reset=read,
            )  # fmt: skip
            self._in_flight[id_] = reset
        self.charge(started_ns, charged_ns)
        return id_

    def end(self, id_: int, operation: Operation, pool: Pool, name: str, nbytes: int) -> None:
        """The operation is done."""
        started_ns, charged_ns = time.monotonic_ns(), self.charged_ns
        with self._lock:
            alone = self._in_flight.pop(id_, False)
            read = not self._in_flight and _moves_memory(operation, pool, nbytes)
            self._record(EventKind.END, operation, pool, id_, nbytes, name=name, read=read, exact=read and alone)
        self.charge(started_ns, charged_ns)

    def release(self, id_: int, pool: Pool, name: str, nbytes: int) -> None:
        """The memory that operation `id_` materialised is gone."""
        started_ns, charged_ns = time.monotonic_ns(), self.charged_ns
        self._record(EventKind.RELEASE, Operation.MATERIALISE, pool, id_, nbytes, name=name)
        self.charge(started_ns, charged_ns)

    def reading(self, name: str, *, reset: bool = False) -> tuple[Reading, bool]:
        """Record and return the worker's memory under a name, and whether the mark has been reset after it."""
        with self._lock:
            reading = self._memory.reading()
            was_reset = reset and self._memory.reset_high_water()
            self._write(Event(time.monotonic_ns(), EventKind.READING, reading=reading, name=name))
        return reading, was_reset

    def report(self, name: str, value: object) -> None:
        """Record a fact of the run."""
        self._write(Event(time.monotonic_ns(), EventKind.REPORT, name=name, detail=json.dumps(value)))

    def books(self) -> dict[str, int | None]:
        """What the worker has caused to be read from storage, and its page faults, so far."""
        minor, major = self._memory.faults() or (None, None)
        return {
            "read_bytes": self._memory.storage_read_bytes(),
            "minor_faults": minor,
            "major_faults": major,
        }

    def _record(
        self,
        kind: EventKind,
        operation: Operation = Operation.NONE,
        pool: Pool = Pool.NONE,
        id_: int = 0,
        nbytes: int = 0,
        file: int = -1,
        offset: int = -1,
        *,
        name: str = "",
        detail: str = "",
        exact: bool = False,
        read: bool = False,
        reset: bool = False,
    ) -> bool:
        """Write an event; returns whether the high-water mark has been reset for it."""
        if not self.enabled:
            return False
        started_ns = time.monotonic_ns()
        with self._lock:
            reading = self._memory.reading() if read else None
            was_reset = read and reset and self._memory.reset_high_water()
            self._write(
                Event(started_ns, kind, operation, pool, id_, nbytes, file, offset, exact, reading, name, detail)
            )
        self._event_ns.append(time.monotonic_ns() - started_ns)
        return was_reset

    def _write(self, event: Event) -> None:
        with self._lock:
            vital = event.kind in _VITAL
            self._waiting.append((pack(event), vital))
            if self._writing:  # we have struck in the middle of a write, which takes this one along
                return
            self._writing = True
            try:
                while self._waiting:
                    self._ring.write(*self._waiting.popleft())
            finally:
                self._writing = False
