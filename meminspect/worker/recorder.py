"""Turns what happens in the worker into event records, with the memory readings that belong to them.

The high-water mark is the process's, not a tensor's: it is reset, and called exact, only where one operation stands
alone between two readings. Every reset is preceded by a reading, so that no peak is forgotten.

What watching may cost decides what is written. A reading takes some 100 µs between two tensors, when the load has
swept the caches: one every 50 ms is enough while memory grows, and one before it falls again, or nobody could tell
which pool had made the mark. What takes no time (a name that changes hands, a mapping, a release) and,
in checkpoints of very many, tiny tensors are gathered into one record for many (`capture.batches`).
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.batches import Batch
from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.capture.ring import RingWriter
    from meminspect.sampling.own_memory import OwnMemory
    from meminspect.worker.device import DeviceBooks

__all__ = ["CHUNK_BYTES", "READING_GAP_NS", "SMALL_BYTES", "Recorder"]

SMALL_BYTES: Final = 1 << 20
"""Below this a tensor gets no reading of its own: the kernel's counters are no finer than some 256 KiB."""

CHUNK_BYTES: Final = 8 << 20
"""Below this a part of a tensor gets none: there may be thousands, and no pool's peak is in doubt by more than one."""

READING_GAP_NS: Final = 50_000_000
"""No tensor's end is read sooner after the last reading: at 100 µs each that is 0.2 % of the load."""

_FALLING: Final = "falling"  # the name of a reading before memory goes
_BATCH_AGE_NS: Final = 20_000_000  # what has been gathered is written by then, for whoever watches live
_BEGIN, _END = EventKind.BEGIN, EventKind.END  # an enumeration's members take microseconds to find in swept caches
_COST_STEP_NS: Final = 256
_COST_STEPS: Final = 1024  # counted one by one: what takes longer counts as that long


class Recorder:
    """Writes events to the ring. Safe to call from several threads and from weakref callbacks.

    Attributes:
        enabled: False during the warm-up: the hooks run, but nothing is recorded.
        device: the allocator of the device that is loaded to; None where that is the host.
        naming: is told whose memory is made next, and in the end that it is nobody's; None: nobody asks.
        tiny_bytes: operations on fewer bytes are gathered.
        charged_ns: spent on behalf of recording so far; the hooks' own calls, about 1 µs each, come on top.
        retained_at_peak_bytes: what the allocator kept of freed memory when the highest mark was read; None if unknown.
        used_bytes: asks the allocators what is in use, where tensors are so many that their objects weigh something.
        used_at_peak_bytes: what it answered then, and `beside_malloc_bytes`; None if unknown.
        beside_malloc_bytes: tensors' memory that no allocator knows of.

    Args:
        ring: where events go.
        memory: the worker's own.
        free_bytes: asks the allocator what it keeps of freed memory.
    """

    def __init__(
        self, ring: RingWriter, memory: OwnMemory, free_bytes: Callable[[], int | None] = lambda: None
    ) -> None:
        self.enabled = False
        self.device: DeviceBooks | None = None
        self.naming: Callable[[str], None] | None = None
        self.tiny_bytes = 0
        self.charged_ns = 0
        self.retained_at_peak_bytes: int | None = None
        self.used_bytes: Callable[[], int | None] = lambda: None
        self.used_at_peak_bytes: int | None = None
        self.beside_malloc_bytes = 0
        self._ring = ring
        self._memory = memory
        self._free_bytes = free_bytes
        self._peak_bytes = 0  # the highest mark since the last `reading` that has reset it
        self._asked_bytes = 0  # the highest of those at which the allocator was asked
        # Re-entrant: a release may strike, through the garbage collector, while an event is being written.
        self._lock = threading.RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release  # half the price of `with`, once a tensor
        self._waiting: deque[tuple[tuple[Any, ...], bool]] = deque()
        self._writing = False
        self._next_id = 0
        self._in_flight: set[int] = set()
        self._begun_since_reset = 2  # operations since the mark was last reset: a mark is one's own if it is 1
        self._last_reading_ns = 0
        self._batch: Batch | None = None
        self._costs = [0] * _COST_STEPS  # how many events took so many steps
        self._phase = ""

    @property
    def hooks_s(self) -> float:
        """Seconds spent on behalf of recording so far."""
        return self.charged_ns / 1e9

    @property
    def events(self) -> int:
        """Events recorded so far; an operation that is gathered is one."""
        return sum(self._costs)

    @property
    def event_us_median(self) -> float | None:
        """Median cost of an event in microseconds; None before there was one."""
        events = self.events
        if not events:
            return None
        middle = next(step for step, upto in enumerate(accumulate(self._costs)) if 2 * upto >= events)
        return (middle + 0.5) * _COST_STEP_NS / 1e3

    def phase(self, name: str) -> None:
        """A phase begins, and the one before ends; the same phase again is not news."""
        if name == self._phase:
            return
        started_ns = time.monotonic_ns()
        with self._lock:
            self._phase = name
            if not self.enabled:
                return
            reading = self._read(started_ns, reset=not self._in_flight)
            self._write(Event(started_ns, EventKind.PHASE, reading=reading, name=name))
            self._charge(started_ns)

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
        if not self.enabled:
            return 0
        started_ns = time.monotonic_ns()
        self._acquire()
        try:
            self._next_id = id_ = self._next_id + 1
            self._begun_since_reset += 1
            if nbytes < self.tiny_bytes:
                self._gather(started_ns, operation, pool, id_, name, nbytes, detail, file, offset)
                self._ring.mark(name)  # should it die here
                return id_
            self._in_flight.add(id_)
            if self._batch is not None:
                self._flush(started_ns)
            self._put((started_ns, _BEGIN, operation, pool, id_, nbytes, file, offset, False, None, name, detail))
            if self.naming is not None:
                self.naming(name)
            self._charge(started_ns)
        finally:
            self._release()
        return id_

    def end(self, id_: int, operation: Operation, pool: Pool, name: str, nbytes: int) -> None:
        """The operation is done."""
        if id_ not in self._in_flight:
            return
        started_ns = time.monotonic_ns()
        self._acquire()
        try:
            self._in_flight.discard(id_)
            reading, alone = None, False
            due = started_ns - self._last_reading_ns >= READING_GAP_NS and nbytes >= SMALL_BYTES
            if due and not self._in_flight:
                alone = self._begun_since_reset == 1
                reading = self._read(started_ns, reset=True, ask=False)
            if self._batch is not None:
                self._flush(started_ns)
            detail = "" if self.device is None else self.device.written()
            if self.naming is not None:
                self.naming("")
            self._put((started_ns, _END, operation, pool, id_, nbytes, -1, -1, alone, reading, name, detail))
            self._charge(started_ns)
        finally:
            self._release()

    def done(
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
        """An operation that takes no time is done; returns the id for `release`."""
        if not self.enabled:
            return 0
        started_ns = time.monotonic_ns()
        with self._lock:
            self._next_id = id_ = self._next_id + 1
            self._gather(started_ns, operation, pool, id_, name, nbytes, detail, file, offset)
        return id_

    def release(self, id_: int, pool: Pool, name: str, nbytes: int) -> None:
        """The memory that operation `id_` materialised is gone."""
        if not self.enabled:
            return
        started_ns = time.monotonic_ns()
        with self._lock:
            self._gather(started_ns, Operation.RELEASE, pool, id_, name, nbytes)

    def before_fall(self, *, grown: bool = False) -> None:
        """Memory is about to go: what has been done since the last reading is read, unless something is in flight.

        Args:
            grown: memory has been written to for the first time, of which no event tells.
        """
        if not self.enabled or not (self._begun_since_reset or grown) or self._in_flight:
            return
        started_ns = time.monotonic_ns()
        with self._lock:
            reading = self._read(started_ns, reset=True)
            self._write(Event(started_ns, EventKind.READING, reading=reading, name=_FALLING))
            self._charge(started_ns)

    def reading(self, name: str, *, reset: bool = False) -> tuple[Reading | None, bool]:
        """Record and return the worker's memory, if it sees it, under a name; and whether the mark was reset after."""
        with self._lock:
            reading = self._read(time.monotonic_ns(), reset=False)
            was_reset = reset and self._memory.reset_high_water()
            self._begun_since_reset = 0 if was_reset else 2
            if was_reset and reading is not None:
                self._peak_bytes = self._asked_bytes = reading.rss_bytes
            detail = "" if self.device is None else self.device.written()
            self._write(Event(time.monotonic_ns(), EventKind.READING, reading=reading, name=name, detail=detail))
        return reading, was_reset

    def heap_bytes(self) -> int:
        """What is on the heap now, read without a record; 0 where the system does not tell."""
        reading = self._memory.reading()
        return 0 if reading is None else reading.heap_bytes

    def report(self, name: str, value: object) -> None:
        """Record a fact of the run."""
        with self._lock:
            self._write(Event(time.monotonic_ns(), EventKind.REPORT, name=name, detail=json.dumps(value)))

    def books(self) -> dict[str, int | None]:
        """What the worker has caused to be read from storage, and its page faults, so far."""
        minor, major = self._memory.faults() or (None, None)
        return {
            "read_bytes": self._memory.storage_read_bytes(),
            "minor_faults": minor,
            "major_faults": major,
        }

    def charge_since(self, started_ns: int) -> None:
        """Account for what a hook has done beside recording since a moment."""
        if self.enabled:
            self.charged_ns += time.monotonic_ns() - started_ns

    def _charge(self, started_ns: int) -> None:
        spent_ns = time.monotonic_ns() - started_ns
        step = spent_ns // _COST_STEP_NS
        self._costs[step if step < _COST_STEPS else -1] += 1
        self.charged_ns += spent_ns

    def _read(self, started_ns: int, *, reset: bool, ask: bool = True) -> Reading | None:
        """Read the memory, and at a peak what the allocator keeps, unless that can wait for what comes before a fall.

        Where the mark lies below an earlier one memory has fallen unseen: what is kept now is not what was kept there.
        """
        self._last_reading_ns = started_ns
        reading = self._memory.reading()
        if reading is not None:
            mark_bytes = reading.high_water_bytes
            self._peak_bytes = max(self._peak_bytes, mark_bytes)
            if ask and mark_bytes > max(self._asked_bytes + SMALL_BYTES, self._peak_bytes - SMALL_BYTES):
                self._asked_bytes = mark_bytes
                self.retained_at_peak_bytes = self._free_bytes()  # at once: what is freed next was in use at the peak
                used_bytes = self.used_bytes()
                self.used_at_peak_bytes = None if used_bytes is None else used_bytes + self.beside_malloc_bytes
        if reset:
            self._begun_since_reset = 0 if self._memory.reset_high_water() else 2
        return reading

    def _gather(
        self,
        started_ns: int,
        operation: Operation,
        pool: Pool,
        id_: int,
        name: str,
        nbytes: int,
        detail: str = "",
        file: int = -1,
        offset: int = -1,
    ) -> None:
        """Put one operation into the batch."""
        batch = self._batch
        if batch is None:
            batch = self._batch = Batch(started_ns)
        full = batch.add(operation, pool, id_, name, nbytes, detail, file, offset)
        if full or started_ns - batch.since_ns > _BATCH_AGE_NS:
            self._flush(started_ns)
        self._charge(started_ns)

    def _flush(self, t_ns: int) -> None:
        """Write what has been gathered until a moment."""
        batch, self._batch = self._batch, None
        if batch is not None:
            for event in batch.events(t_ns):
                self._put(event)
            if self.tiny_bytes:
                self._ring.mark("")

    def _write(self, event: Event) -> None:
        """Write what the run's result hangs on, behind all that was gathered before it."""
        self._flush(event.t_ns)
        self._put(event, vital=True)

    def _put(self, event: tuple[Any, ...], vital: bool = False) -> None:
        """Write an event, given as it is or as the plain tuple of its fields, which takes less to make.

        A vital one finds room in the ring when tensors' events no longer do.
        """
        if self._writing:  # we have struck in the middle of a write, which takes this one along
            self._waiting.append((event, vital))
            return
        self._writing = True
        try:
            self._ring.put(event, vital)
            while self._waiting:
                self._ring.put(*self._waiting.popleft())
        finally:
            self._writing = False
