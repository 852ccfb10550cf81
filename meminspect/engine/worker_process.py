"""One worker process and the descriptors that tie it to us: ring, lifeline, its end and what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import meminspect
from meminspect.capture.records import LogLine
from meminspect.capture.ring import CAPACITY, RingReader, create_ring
from meminspect.errors import RunError
from meminspect.sampling.process import process_books
from meminspect.sampling.procfs import ProcessGone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from meminspect.engine.limits import Confinement

__all__ = ["ENTRY", "Streams", "WorkerProcess"]

ENTRY: Final = Path(meminspect.__file__).parent / "worker" / "__main__.py"
_LONGEST_LINE: Final = 64 << 10
_BESIDE_A_SCRIPT: Final = 8 << 20  # bytes of ring: it is part of what a script reads of its own memory

Streams: TypeAlias = tuple[int, int, int]
"""Descriptors of a standard input, output and error."""


class WorkerProcess:
    """Spawned at once, to import torch and then wait for what `start` tells it; leaving its context leaves nothing.

    Args:
        python: the interpreter to run.
        script: it runs the user's own code, imports nothing before, and takes with it what that has started if it is
            killed.
        streams: what it reads and prints to as if we were not there; None: what it prints is collected in `log`.
        limit: what puts it under a memory limit, if anything does. There are to be no threads then.

    Raises:
        RunError: the interpreter cannot be started.
        subprocess.SubprocessError: the limit's `enter` has failed.
    """

    def __init__(
        self, python: str, limit: Confinement | None = None, *, script: bool = False, streams: Streams | None = None
    ) -> None:
        self.log: deque[LogLine] = deque()
        ring = create_ring(_BESIDE_A_SCRIPT if script else CAPACITY)
        spec, self._spec = os.pipe()
        far_end, self._lifeline = os.pipe()
        passed = (spec, ring, far_end)
        prefix, more = (limit.prefix, limit.passed) if limit else ((), ())
        self._leads_group = script
        try:
            # Every descriptor of ours is close-on-exec, above all the lifeline: a copy of it anywhere would keep the
            # worker alive after us.
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the user names
                [*prefix, python, str(ENTRY), *map(str, passed), *(["script"] if script else [])],
                pass_fds=(*passed, *more), preexec_fn=limit.enter if limit else None, start_new_session=script,
                **_printing(streams),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            for descriptor in (self._lifeline, self._spec, ring):
                os.close(descriptor)
            if isinstance(error, OSError):
                raise RunError(f"cannot start the worker with {python}: {error.strerror}", "check --python") from error
            raise
        finally:
            os.close(spec)
            os.close(far_end)
        self.ring = RingReader(ring)
        os.close(ring)
        self.pid = self._process.pid
        self.end = self._end_descriptor()
        self._printing = [
            threading.Thread(target=self._collect, args=(name, stream), name=name, daemon=True)
            for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr))
            if stream is not None
        ]
        for thread in self._printing:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.wait()
        self._close()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        poll = select.poll()
        poll.register(self.end, select.POLLIN)
        return not poll.poll(0)

    def held_bytes(self) -> int:
        """What it keeps from others: its memory but for the pages of files, which are there for everybody."""
        try:
            with process_books(self.pid) as memory:
                return memory.unshared_bytes()
        except ProcessGone:
            return 0

    def start(self, wanted: Mapping[str, object]) -> None:
        """Hand over the specification that `worker.main` reads; a worker that has died is not told."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._spec, (json.dumps(wanted) + "\n").encode())

    def kill(self) -> None:
        """SIGKILL, through the pidfd where there is one, so that it can never hit a recycled process id."""
        if self._leads_group and self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        try:
            signal.pidfd_send_signal(self.end, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except (AttributeError, OSError):  # `end` is a pipe, or a container forbids it
            self._process.kill()

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

    def _close(self) -> None:
        for descriptor in (self._lifeline, self._spec):
            os.close(descriptor)
        self.ring.close()
        os.close(self.end)

    def _end_descriptor(self) -> int:
        """What is readable, or hangs up, as soon as the worker has ended."""
        try:
            return os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system, Linux before 5.3, or a container that forbids it
            end, far_end = os.pipe()
            threading.Thread(target=self._hang_up, args=(far_end,), name="end", daemon=True).start()
            return end

    def _hang_up(self, far_end: int) -> None:
        self._process.wait()
        os.close(far_end)

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                text = line.decode("utf-8", "replace").rstrip("\n")
                self.log.append(LogLine(time.monotonic_ns(), name, text))


def _printing(streams: Streams | None) -> dict[str, Any]:
    """What Popen is told of standard streams, and of buffers for those that we collect."""
    if streams is not None:
        return dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
    return {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": {**os.environ, "PYTHONUNBUFFERED": "1"},
    }
