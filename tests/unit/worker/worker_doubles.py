"""A recorder whose memory is made up, and the events that it wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meminspect.capture.batches import expanded
from meminspect.capture.records import Event, EventKind, Reading
from meminspect.capture.ring import CAPACITY, RingReader, RingWriter, create_ring
from meminspect.worker.recorder import Recorder

if TYPE_CHECKING:
    from meminspect.sampling.procfs import ProcessMemory

BIG = 2 << 20


class FakeMemory:
    """Counts readings and resets; the n-th reading says n."""

    def __init__(self) -> None:
        self.readings = 0
        self.resets = 0

    def reading(self) -> Reading:
        self.readings += 1
        return Reading(self.readings, 0, 0, self.readings)

    def reset_high_water(self) -> bool:
        self.resets += 1
        return True


class Recording:
    """A recorder, its fake memory and its ring."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        descriptor = create_ring(capacity)
        self.memory = FakeMemory()
        self.writer = RingWriter(descriptor)
        self._reader = RingReader(descriptor)
        memory: ProcessMemory = self.memory  # type: ignore[assignment]
        self.recorder = Recorder(self.writer, memory)
        self.recorder.enabled = True

    def events(self, *kinds: EventKind) -> list[Event]:
        """What has been recorded since the last look; what was being gathered is written first."""
        self.recorder._flush(time.monotonic_ns())
        events = [event for record in self.records() for event in expanded(record)]
        return [event for event in events if not kinds or event.kind in kinds]

    def records(self) -> list[Event]:
        """The records in the ring since the last look, as they are."""
        return list(self._reader.drain())

    @property
    def mark(self) -> str:
        """The ring's mark."""
        return self._reader.mark
