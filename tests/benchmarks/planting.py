"""Plants memory of a known size; as a program, says what one instrument made of it: `python planting.py NAME PLANT`.

A plant is written page by page, kept for its plateau and unmapped. It stands at a moment that the instrument does not
choose, in a function that takes longer than memory_profiler's five measurements.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Around = Callable[[int], AbstractContextManager[object]]

MIB = 1 << 20
INTERVAL_S = 0.1  # of both pollers
LASTS_S = 0.6  # memory_profiler runs what is shorter a second time, with a tenth of the interval


@dataclass(frozen=True)
class Plant:
    """Memory that is in use for a known time.

    Args:
        nbytes: how much, shared evenly by the threads.
        plateau_s: how long all of it is there.
        threads: how many write it, at once.
        before_s: when it begins.
    """

    nbytes: int
    plateau_s: float
    threads: int
    before_s: float

    def grow(self, around: Around = lambda _: contextlib.nullcontext()) -> None:
        """Write, keep and unmap it, each thread's share inside a context of its own."""
        together = threading.Barrier(self.threads)

        def share() -> None:
            nbytes = self.nbytes // self.threads
            with around(nbytes):
                block = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if nbytes else None
                if block is not None:
                    ctypes.memset((ctypes.c_char * 1).from_buffer(block), 1, nbytes)
                together.wait()
                time.sleep(self.plateau_s)
                together.wait()
                if block is not None:
                    block.close()

        time.sleep(self.before_s)
        threads = [threading.Thread(target=share) for _ in range(self.threads - 1)]
        for thread in threads:
            thread.start()
        share()
        for thread in threads:
            thread.join()
        time.sleep(max(LASTS_S - self.before_s, 0))


def by_poller(plant: Plant) -> float:
    """The helper of many a notebook: a thread in the process it measures, which sleeps 100 ms between two looks."""
    import psutil

    process = psutil.Process()
    before, seen, done = process.memory_info().rss, [], threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(process.memory_info().rss)
            time.sleep(INTERVAL_S)

    thread = threading.Thread(target=look)
    thread.start()
    plant.grow()
    done.set()
    thread.join()
    return max(seen) - before


def by_memory_profiler(plant: Plant) -> float:
    from memory_profiler import memory_usage

    before = memory_usage(-1, max_usage=True)
    return float(memory_usage((plant.grow, ()), interval=INTERVAL_S, max_usage=True) - before) * MIB


def by_memray(plant: Plant) -> float:
    """All that was allocated at the peak, the interpreter's own included."""
    from memray import FileReader, Tracker

    with tempfile.TemporaryDirectory(dir=sys.argv[3]) as folder:
        path = Path(folder) / "plant.bin"
        with Tracker(path, native_traces=True):
            plant.grow()
        return float(FileReader(path).metadata.peak_memory)


INSTRUMENTS = {"100 ms poller": by_poller, "memory_profiler": by_memory_profiler, "memray": by_memray}

if __name__ == "__main__":
    from meminspect.worker.ballast import populate

    wanted = Plant(**json.loads(sys.argv[2]))
    populate(wanted.nbytes)
    print(INSTRUMENTS[sys.argv[1]](wanted))  # noqa: T201
