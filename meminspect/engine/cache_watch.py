"""Asks, in a thread of its own, how much of each of the checkpoint's files is in the page cache while a run goes on.

The kernel counts pages one by one, some 5 ms for a gigabyte and 20 where it has no `cachestat`. So it is asked rarely:
what changes may take a four-hundredth of one core, what stays as it is a fifth of that. Of a cold file there is nothing
to count, so that its first pages are not missed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Cached
from meminspect.page_cache import OpenFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["CacheWatch"]

_LEAST_WAIT_S: Final = 0.25
_WAIT_TO_WORK: Final = 400  # after a round that has seen a change
_STILL_WAIT_TO_WORK: Final = 2000
_ROUND_S: Final = 0.002  # of asking without a pause; it goes on with the next file after it
_MOST_OPEN: Final = 256  # files; many more may be more than a process may have


class CacheWatch(threading.Thread):
    """Watches files from `start` to `stop`; what it has seen waits for `take`.

    Args:
        paths: the checkpoint's files, in order. One that cannot be opened, or whose pages nobody may see, is left out;
            so is what comes after so many that they cannot all be held open.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(name="cache watch", daemon=True)
        self.failure: BaseException | None = None
        self.cpu_s = 0.0
        self._paths = paths[:_MOST_OPEN]
        self._seen: deque[Cached] = deque()
        self._last: dict[int, int] = {}
        self._stop_requested = threading.Event()

    def take(self) -> list[Cached]:
        """Remove and return what has been seen since the last call: a row where a file's share has changed."""
        rows = []
        with contextlib.suppress(IndexError):
            while True:
                rows.append(self._seen.popleft())
        return rows

    def stop(self) -> None:
        """Look once more at every file, and end the thread."""
        self._stop_requested.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """The loop; what goes wrong in it is kept in `failure` for whoever joins."""
        try:
            with contextlib.ExitStack() as stack:
                files: dict[int, OpenFile] = {}
                for number, path in enumerate(self._paths):
                    with contextlib.suppress(OSError):
                        files[number] = stack.enter_context(OpenFile(path))
                if files:
                    self._loop(files)
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self.failure = error
        self.cpu_s = time.thread_time()

    def _loop(self, files: dict[int, OpenFile]) -> None:
        turn = itertools.cycle(files)
        wait_s = 0.0
        while not self._stop_requested.wait(wait_s):
            began_s, changed = time.monotonic(), False
            for number in itertools.islice(turn, len(files)):
                changed |= self._ask(number, files[number])
                if time.monotonic() - began_s > _ROUND_S:
                    break
            self.cpu_s = time.thread_time()
            wait_to_work = _WAIT_TO_WORK if changed else _STILL_WAIT_TO_WORK
            wait_s = max(_LEAST_WAIT_S, wait_to_work * (time.monotonic() - began_s))
        for number, file in files.items():
            self._ask(number, file)

    def _ask(self, number: int, file: OpenFile) -> bool:
        """Look at one file; whether its share has changed."""
        try:
            nbytes = file.cached_bytes()
        except OSError:  # it has gone bad under our eyes: what is known of it stays
            return False
        if nbytes is None or nbytes == self._last.get(number):
            return False
        self._last[number] = nbytes
        self._seen.append(Cached(time.monotonic_ns(), number, nbytes))
        return True
