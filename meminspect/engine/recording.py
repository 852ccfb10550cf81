"""Carries what sampler, ring and pipes hold into the capture, in a thread of its own: a commit may take its time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from meminspect.capture.records import EventKind
from meminspect.engine.worker_state import WorkerState

if TYPE_CHECKING:
    from meminspect.capture.records import LogLine
    from meminspect.capture.ring import RingReader
    from meminspect.capture.store import CaptureWriter
    from meminspect.engine.cache_watch import CacheWatch
    from meminspect.engine.device_watch import DeviceWatch
    from meminspect.engine.sampler import Sampler

__all__ = ["Recorded", "Recording"]

_INTERVAL_S: Final = 0.25  # a SIGKILL of the supervisor loses at most this and one commit


class Recorded(Protocol):
    """What is recorded: a worker, or this very process."""

    @property
    def ring(self) -> RingReader:
        """Where its events come from."""

    def take_log(self) -> list[LogLine]:
        """Remove and return what it has printed since the last call."""

    def kill(self) -> None:
        """End what cannot be recorded."""


class Recording(threading.Thread):
    """Writes until `finish`, which takes what is left."""

    def __init__(
        self,
        writer: CaptureWriter,
        worker: Recorded,
        sampler: Sampler,
        cache_watch: CacheWatch,
        device_watch: DeviceWatch,
    ) -> None:
        super().__init__(name="recording", daemon=True)
        self.failure: BaseException | None = None
        self.state = WorkerState()
        self.cpu_s = 0.0
        self._writer = writer
        self._worker = worker
        self._sampler = sampler
        self._cache_watch = cache_watch
        self._device_watch = device_watch
        self._stop_requested = threading.Event()

    def run(self) -> None:
        """The writing loop; what goes wrong in it is kept in `failure`, and the worker is stopped."""
        try:
            while not self._stop_requested.wait(_INTERVAL_S):
                self._carry()
            self._carry()
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self.failure = error
            self._worker.kill()  # a run that cannot be recorded is not worth its memory
        self.cpu_s = time.thread_time()

    def finish(self) -> None:
        """Carry over what is left and end the thread."""
        self._stop_requested.set()
        self.join()

    def _carry(self) -> None:
        samples = self._sampler.take()
        events = list(self._worker.ring.drain())
        self.state.mark = self._worker.ring.mark  # after the events: what they tell of is no longer marked
        for event in events:
            self.state.apply(event)
            if event.kind is EventKind.REPORT:
                self._writer.fact(event.name, self.state.reports[event.name])
        for sample in samples:
            self.state.sampled(sample)
        log = self._worker.take_log()
        for line in log:
            if line.stream == "stderr" and line.text.strip():
                self.state.last_words = line.text.strip()
        self._writer.append(samples, events, log, self._cache_watch.take(), self._device_watch.take())
