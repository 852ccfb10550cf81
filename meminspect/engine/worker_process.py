"""One worker process and the descriptors that tie it to us: ring, lifeline, pidfd and what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import meminspect
from meminspect.capture.records import LogLine
from meminspect.capture.ring import RingReader, create_ring
from meminspect.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WorkerProcess"]

_ENTRY: Final = Path(meminspect.__file__).parent / "worker" / "__main__.py"
_LONGEST_LINE: Final = 64 << 10


class WorkerProcess:
    """Spawned at once; `kill` and `close` leave nothing behind.

    Args:
        python: the interpreter to run.
        wanted: the specification that `worker.main` reads.

    Raises:
        RunError: the interpreter cannot be started.
    """

    def __init__(self, python: str, wanted: Mapping[str, object]) -> None:
        self.log: deque[LogLine] = deque()
        self.events_lost = 0  # known once closed
        ring, spec = create_ring(), os.memfd_create("meminspect-spec")
        os.write(spec, json.dumps(wanted).encode())
        os.lseek(spec, 0, os.SEEK_SET)
        far_end, self._lifeline = os.pipe()
        passed = (spec, ring, far_end)
        try:
            # Every descriptor of ours is close-on-exec, above all the lifeline: a copy of it anywhere would keep the
            # worker alive after us.
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the user names
                [python, str(_ENTRY), *map(str, passed)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=passed, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        except OSError as error:
            os.close(self._lifeline)
            raise RunError(f"cannot start the worker with {python}: {error.strerror}", "check --python") from error
        finally:
            os.close(spec)
            os.close(far_end)
        self.ring = RingReader(ring)
        os.close(ring)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._printing = [
            threading.Thread(target=self._collect, args=(name, stream), name=name, daemon=True)
            for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr))
            if stream is not None
        ]
        for thread in self._printing:
            thread.start()

    def kill(self) -> None:
        """SIGKILL, through the pidfd, so that it can never hit a recycled process id."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; the exit status, negative for a signal. All that was printed has been collected then.

        A grandchild that keeps our pipes open is not waited for.
        """
        status = self._process.wait()
        for thread in self._printing:
            thread.join(timeout=0.5)
        return status

    def take_log(self) -> list[LogLine]:
        """Remove and return what has been printed since the last call."""
        lines = []
        with contextlib.suppress(IndexError):
            while True:
                lines.append(self.log.popleft())
        return lines

    def close(self) -> None:
        """Let go of everything; a worker that still runs is killed by its lifeline."""
        self.events_lost = self.ring.lost
        os.close(self._lifeline)
        self.ring.close()
        os.close(self.pidfd)

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                text = line.decode("utf-8", "replace").rstrip("\n")
                self.log.append(LogLine(time.monotonic_ns(), name, text))
