"""Starting a run from a command or screen: the supervisor process as the front ends see it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from meminspect.capture.store import CaptureReader
from meminspect.engine.cancellation import CANCEL
from meminspect.engine.ceiling import recorded_ceiling
from meminspect.engine.explain import explain_lost
from meminspect.engine.worker_state import WorkerState
from meminspect.errors import CaptureError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meminspect.engine.spec import RunSpec
    from meminspect.engine.worker_process import Streams

__all__ = ["Session", "Standby", "conclude", "recover"]

# The import path travels as an argument: `-m` would put the current folder, and whatever lies there, in front of it.
_START: Final = "import sys; sys.path[:] = sys.argv[1].split('\\n'); import meminspect.engine.supervisor as s; s.main()"
_ENDED_ITSELF: Final = "the process ended before the recording in it did"
_PATIENCE_S: Final = 2.0  # with a supervisor that is to end: it may still be starting


class Standby:
    """A supervisor without a run yet, whose worker imports torch meanwhile. Nothing is written to disk.

    It ends with `close`, and with this process.

    Args:
        python: the interpreter of the worker.

    Raises:
        RunError: the supervisor cannot be started.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._process: subprocess.Popen[str] | None = _supervisor()
        _tell(self._process, {"standby": python})

    def close(self) -> None:
        """End supervisor and worker; nothing happens where a session has taken them over."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def hand_over(self, spec: RunSpec) -> subprocess.Popen[str] | None:
        """The supervisor, with its worker, once it has been given the run; None, and ended, where it is not fit for it.

        A worker under a limit has to be born inside it.
        """
        process = self._process
        other = spec.options.interpreter.executable != self._python or spec.limit_bytes is not None
        if process is None or other or process.poll() is not None:
            self.close()
            return None
        self._process = None
        if _tell(process, spec.document()):
            return process
        _end(process)
        return None


class Session:
    """One run under way; its capture grows at `spec.capture`.

    Args:
        spec: the run.
        standby: what has been started ahead of it; it is used up, whether it was fit for this run or not.
        streams: standard input, output and error for a script of the user's own; None: what it prints is recorded.

    Raises:
        RunError: the supervisor cannot be started.
    """

    def __init__(self, spec: RunSpec, standby: Standby | None = None, *, streams: Streams | None = None) -> None:
        self.spec = spec
        process = standby.hand_over(spec) if standby is not None else None
        if process is None:
            passed = [_passable(descriptor) for descriptor in streams or ()]
            try:
                process = _supervisor(*passed)
            finally:
                for descriptor in passed:
                    os.close(descriptor)
            _tell(process, {**spec.document(), "streams": passed})  # if it died at once, `wait` says so
        self._process = process

    @property
    def running(self) -> bool:
        """Whether the supervisor is still at work."""
        return self._process.poll() is None

    def join(self) -> None:
        """Wait for its end, and for nothing else."""
        self._process.wait()

    def cancel(self) -> None:
        """Ask for the run's end; the capture is finished all the same.

        A pipe that is closed without a word would say that we have died.
        """
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(CANCEL)
                stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                stdin.close()

    def wait(self) -> None:
        """Wait until the capture is finished, recovering it if the supervisor has been killed.

        Raises:
            CaptureError: there is no capture to read.
        """
        status = self._process.wait()
        stderr = self._process.stderr
        said = stderr.read().strip() if stderr is not None else ""
        capture = self.spec.capture
        if not capture.exists() or not capture.stat().st_size:
            with contextlib.suppress(OSError):
                capture.unlink()
            raise CaptureError(
                said or f"the supervisor ended with exit status {status} before it began the capture",
                "is its place full or read-only? name another with --out",
            )
        last_line = said.splitlines()[-1] if said else ""
        try:
            with CaptureReader(capture) as reader:
                if (reader.fact("spec") or {}).get("supervisor_pid") != self._process.pid:
                    raise CaptureError(last_line or f"{capture} is written by another run", "name another with --out")
            ended = recover(capture, last_line)
        except CaptureError as error:
            raise CaptureError(last_line or error.message, error.hint) from error
        if not ended:
            raise CaptureError(last_line or f"{capture} has no end", "is its disk full? name another place with --out")


def _passable(descriptor: int) -> int:
    """A copy of a standard stream under a number that nobody takes for one; of one that is closed, nothing to read."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 3)


def _supervisor(*passed: int) -> subprocess.Popen[str]:
    path = "\n".join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - sys.path is text
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", _START, path],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            pass_fds=passed, start_new_session=True,  # Ctrl-C reaches the command alone, which then cancels
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"cannot start the supervisor: {error.strerror}") from error


def _tell(process: subprocess.Popen[str], document: Mapping[str, object]) -> bool:
    """Send a line; False where nobody is left to read it."""
    assert process.stdin is not None  # noqa: S101 - PIPE was asked for
    try:
        process.stdin.write(json.dumps(document) + "\n")
        process.stdin.flush()
    except (BrokenPipeError, ValueError):  # ValueError: somebody has closed it
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """Close a supervisor's standard input, which ends it and its worker, and wait for it."""
    with process:  # whose exit closes the pipes and waits
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def recover(path: Path, said: str = "") -> bool:
    """Give a capture an outcome if its supervisor is gone without having done so; False where it cannot be written.

    Raises:
        CaptureError: it is not a readable capture.
    """
    with CaptureReader(path) as capture:
        return conclude(capture, said)


def conclude(capture: CaptureReader, said: str = "") -> bool:
    """As `recover`, for a capture that is open; where it is not ours to write, this reader alone sees the outcome."""
    spec = capture.fact("spec") or {}
    inside = (spec.get("script") or {}).get("kind") == "record"  # it records itself: there is no supervisor
    alive = _exists if inside else _alive
    if capture.fact("outcome") is not None or alive(spec.get("supervisor_pid")):
        return True
    said = said or (_ENDED_ITSELF if inside else "the supervisor was killed, and the worker ended with it")
    state, ceiling = WorkerState(), recorded_ceiling(spec, capture.fact("machine") or {})
    for _, event in capture.events():
        state.apply(event)
    for sample in capture.samples():
        state.sampled(sample)
    capture.finish(explain_lost(said, state, ceiling))
    return capture.fact("outcome") is not None


def _exists(pid: int | None) -> bool:
    import psutil

    return pid is not None and bool(psutil.pid_exists(pid))  # type: ignore[no-untyped-call]


def _alive(pid: int | None) -> bool:
    import psutil

    if pid is None:
        return False
    try:
        command: list[str] = psutil.Process(pid).cmdline()  # type: ignore[no-untyped-call]
    except psutil.Error:
        return False
    return any("meminspect.engine.supervisor" in argument for argument in command)
