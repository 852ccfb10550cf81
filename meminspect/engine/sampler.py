"""Watches the worker from outside, in a thread of its own that neither drawing nor a commit can delay.

A wake-up costs 50 µs before it has done anything, and finds the caches swept by the load, so that every step in it
costs four times what it does in a loop. So most samples come from the kernel's shortest text, and all are kept as they
are until somebody takes them, many at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Sample
from meminspect.sampling.process import process_books
from meminspect.sampling.procfs import ProcessGone, parse_sizes, parse_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.sampling.cgroups import MemoryGroup

__all__ = ["Sampler"]

_INTERVAL_S: Final = 0.04  # the total's peak is the kernel's mark; a pool's is no better known than this
_WHOLE_EVERY: Final = 4  # what changes slower, or matters less, and costs more to read
_NICE: Final = -10  # where we may: a CPU-bound loader must not starve its observer


_Raw = tuple[int, bytes | int, int | None, tuple[int | None, int | None, int | None] | None]
"""A sample as the kernel has written it: when, `ProcessBooks.sizes`, of the device, and None; or of a whole sample
`ProcessBooks.status`, with reads and faults behind."""


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
        self._memory = process_books(pid)
        self._vram_used_bytes = vram_used_bytes
        self._group = group
        self._pinned_bytes = self._swap_bytes = 0  # as the last whole sample had them
        self._taken: deque[_Raw] = deque()
        self._last_ns = 0  # when the last that was taken was made
        self._stopping = False

    def take(self) -> list[Sample]:
        """Remove and return what has been sampled since the last call."""
        samples = []
        with contextlib.suppress(IndexError):
            while True:
                samples.append(self._sample(self._taken.popleft()))
        return samples

    def _sample(self, raw: _Raw) -> Sample:
        t_ns, sizes, vram_used_bytes, others = raw
        self.max_gap_ns = max(self.max_gap_ns, t_ns - (self._last_ns or t_ns))
        self._last_ns = t_ns
        if isinstance(sizes, int):  # the total alone
            self.last_rss_bytes = sizes
            return Sample(t_ns, *(None,) * 5, vram_used_bytes=vram_used_bytes, total_bytes=sizes)
        if others is None:
            heap_bytes, shared_bytes = parse_sizes(sizes)
            # What it shares is files' pages, but for the little of other kinds that the last whole sample told of.
            pinned_bytes = min(self._pinned_bytes, shared_bytes)
            self.last_rss_bytes = heap_bytes + shared_bytes
            pools = heap_bytes, shared_bytes - pinned_bytes, pinned_bytes
            return Sample(t_ns, *pools, self._swap_bytes, vram_used_bytes=vram_used_bytes)
        reading, self._swap_bytes = parse_status(sizes)
        self._pinned_bytes, self.last_rss_bytes = reading.pinned_bytes, reading.rss_bytes
        pools = reading[:3]
        return Sample(t_ns, *pools, self._swap_bytes, reading.high_water_bytes, *others, vram_used_bytes)

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self.join()

    def run(self) -> None:
        """The sampling loop; what goes wrong in it is kept in `failure` for whoever joins."""
        with contextlib.suppress(OSError):
            if sys.platform == "linux":  # elsewhere that is no thread's number, but may be a stranger's
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
        while not self._stopping:
            t_ns = time.monotonic_ns()  # before the reading: what it tells had happened by its end, not by its start
            if self.count % _WHOLE_EVERY:
                self._taken.append((t_ns, self._memory.sizes(), self._vram_used_bytes(), None))
            else:
                self._taken.append((t_ns, self._memory.status(), self._vram_used_bytes(), self._others()))
            self.count += 1
            time.sleep(_INTERVAL_S)  # the next comes later by what this one took: nothing asks for even steps

    def _others(self) -> tuple[int | None, int | None, int | None]:
        minor, major = self._memory.faults() or (None, None)
        charged = None if self._group is None else self._group.file_bytes()
        if charged is not None:
            self.group_file_bytes = max(self.group_file_bytes or 0, charged)
        return self._memory.storage_read_bytes(), minor, major
