"""Watches the worker from outside, in a thread of its own that neither drawing nor a commit can delay."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Sample
from meminspect.sampling.procfs import ProcessGone, ProcessMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.sampling.cgroups import MemoryGroup

__all__ = ["Sampler"]

_INTERVAL_S: Final = 0.005
_SLOW_EVERY: Final = 4  # I/O, faults and the device change slower than memory and cost more to read
_NICE: Final = -10  # where we may: a CPU-bound loader must not starve its observer


class Sampler(threading.Thread):
    """Samples one process until it ends or `stop` is called, and accounts for its own cost.

    Args:
        pid: the process.
        vram_used_bytes: reads the device.
        group: the memory cgroup that is the process's own, if any.
    """

    def __init__(self, pid: int, vram_used_bytes: Callable[[], int | None], group: MemoryGroup | None = None) -> None:
        super().__init__(name="sampler", daemon=True)
        self.failure: BaseException | None = None
        self.cpu_s = 0.0
        self.count = 0
        self.max_gap_ns = 0
        self.last_rss_bytes: int | None = None
        self.group_file_bytes: int | None = None  # the most page cache that was charged to the group
        self._memory = ProcessMemory(pid)
        self._vram_used_bytes = vram_used_bytes
        self._group = group
        self._samples: deque[Sample] = deque()
        self._stop_requested = threading.Event()

    def take(self) -> list[Sample]:
        """Remove and return what has been sampled since the last call."""
        samples = []
        with contextlib.suppress(IndexError):
            while True:
                samples.append(self._samples.popleft())
        return samples

    def stop(self) -> None:
        """End the thread."""
        self._stop_requested.set()
        self.join()

    def run(self) -> None:
        """The sampling loop; what goes wrong in it is kept in `failure` for whoever joins."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            with self._memory:
                self._loop()
        except ProcessGone:
            pass
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self.failure = error
        self.cpu_s = time.thread_time()

    def _loop(self) -> None:
        due = time.monotonic()
        last_ns = time.monotonic_ns()
        while not self._stop_requested.is_set():
            sample = self._sample(slow=self.count % _SLOW_EVERY == 0)
            self._samples.append(sample)
            self.count += 1
            self.max_gap_ns = max(self.max_gap_ns, sample.t_ns - last_ns)
            last_ns = sample.t_ns
            # A missed deadline is not made up for: a burst of samples would say nothing new.
            due = max(due + _INTERVAL_S, time.monotonic())
            self._stop_requested.wait(max(0.0, due - time.monotonic()))

    def _sample(self, *, slow: bool) -> Sample:
        t_ns = time.monotonic_ns()  # before the reading: whatever it tells had happened by its end, not by its start
        reading, swap_bytes = self._memory.reading_and_swap()
        self.last_rss_bytes = reading.rss_bytes
        if not slow:
            return Sample(t_ns, *reading[:3], swap_bytes, reading.high_water_bytes)
        minor, major = self._memory.faults() or (None, None)
        charged = None if self._group is None else self._group.file_bytes()
        if charged is not None:
            self.group_file_bytes = max(self.group_file_bytes or 0, charged)
        return Sample(
            t_ns, *reading[:3], swap_bytes, reading.high_water_bytes,
            self._memory.storage_read_bytes(), minor, major, self._vram_used_bytes(),
        )  # fmt: skip
