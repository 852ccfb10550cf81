"""The installed command in processes of its own, with a home that nothing else uses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pytest

from meminspect.capture.store import CaptureReader
from meminspect.errors import CaptureError
from meminspect.sampling.cgroups import memory_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = Path(sysconfig.get_path("scripts")) / "meminspect"
DEADLINE_S = 120
POLL_S = 0.01


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on stdout; NaN and infinity are refused, as strict readers refuse them."""
        found: dict[str, Any] = json.loads(self.stdout, parse_constant=_refuse)
        return found

    @property
    def run(self) -> dict[str, Any]:
        """The only run of the document."""
        (run,) = self.document["runs"]
        found: dict[str, Any] = run
        return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class Home:
    """A user's home: every folder that the command may write to is below it."""

    folder: Path

    @property
    def captures(self) -> Path:
        """Where captures go unless told otherwise."""
        return self.folder / "data" / "meminspect" / "captures"

    def start(self, *arguments: object, wrapper: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """Start the command, by way of another program if need be."""
        places = {"HOME": "", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "TMPDIR": ""}
        for name, below in places.items():
            environment.setdefault(name, str(self.folder / below))
        self.folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        return subprocess.Popen(
            [*wrapper, str(COMMAND), *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**inherited, "PYTHONUTF8": "1", **environment}, start_new_session=True,
        )  # fmt: skip

    def meminspect(self, *arguments: object, wrapper: tuple[str, ...] = (), **environment: str) -> Done:
        """Run the command to its end."""
        return finished(self.start(*arguments, wrapper=wrapper, **environment))

    def processes(self) -> list[psutil.Process]:
        """What was started from here and still runs."""
        mark, found = str(self.folder), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def finished(command: subprocess.Popen[str]) -> Done:
    """Wait for a command."""
    with command:
        try:
            stdout, stderr = command.communicate(timeout=DEADLINE_S)
        except BaseException:
            command.kill()
            raise
    return Done(command.returncode, stdout, stderr)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        pause.wait(POLL_S)


def phase_of(capture: Path) -> str | None:
    """The phase that a run under way has reached."""
    with contextlib.suppress(CaptureError), CaptureReader(capture) as reader:
        phases = [event.name for _, event in reader.events() if event.kind.name == "PHASE"]
        return phases[-1] if phases else None
    return None


@contextlib.contextmanager
def memory_limit(nbytes: int) -> Iterator[tuple[str, ...]]:
    """A memory cgroup of its own, removed afterwards; yields the wrapper that starts a command in it."""
    around = memory_group()
    if around is None:
        pytest.skip("no memory cgroups here")
    group = around.folder / f"meminspect-test-{os.getpid()}-{threading.get_native_id()}"
    names = ("memory.max", "memory.swap.max") if around.version == 2 else ("memory.limit_in_bytes", "")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"this user makes no cgroups: {error}")
    try:
        try:
            (group / names[0]).write_text(str(nbytes))
            if names[1] and (group / names[1]).exists():
                (group / names[1]).write_text("0")
        except OSError as error:
            pytest.skip(f"this user sets no memory limits: {error}")
        yield ("sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh")
        until(lambda: not (group / "cgroup.procs").read_text())
    finally:
        group.rmdir()
