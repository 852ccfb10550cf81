"""Whoever is killed, whenever: nothing is left running, and what was recorded can be read."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
from command_line import DEADLINE_S, phase_of, until

from meminspect.capture.store import CaptureReader
from meminspect.engine.session import recover
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOSS_NS = 100_000_000


class Run(NamedTuple):
    command: subprocess.Popen[str]
    capture: Path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 MB, so that every phase lasts long enough to be hit."""
    folder = tmp_path_factory.mktemp("checkpoint")
    architecture = architecture_for("llama", "meta", parameters=200_000_000)
    return synthesise(SynthesisSpec(folder / "llama", architecture, "meta"))


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Iterator[Run]:
    capture = tmp_path / "run.meminspect"
    arguments = ["run", "--ckpt", str(checkpoint), "-s", "naive", "--out", str(capture)]
    command = subprocess.Popen(
        [sys.executable, "-m", "meminspect", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with command:
        yield Run(command, capture)
        with contextlib.suppress(ProcessLookupError):
            command.kill()


def family(run: Run) -> dict[str, psutil.Process]:
    """The processes of a run: the command's child is the supervisor, whose child is the worker."""
    command = psutil.Process(run.command.pid)
    (supervisor,) = command.children()
    (worker,) = [child for child in supervisor.children() if "worker/__main__.py" in " ".join(child.cmdline())]
    return {"command": command, "supervisor": supervisor, "worker": worker}


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("phase", ["import", "warm-up", "build", "read", "verify"])
@pytest.mark.parametrize("victim", ["worker", "supervisor", "command"])
def test_given_a_run_when_one_process_is_killed_then_none_is_left_and_the_capture_tells(
    run: Run, victim: str, phase: str
) -> None:
    until(lambda: phase_of(run.capture) == phase)
    processes = family(run)

    killed_ns = time.monotonic_ns()
    processes[victim].kill()

    until(lambda: all(gone(process) for name, process in processes.items() if name != "command"))
    run.command.wait(DEADLINE_S)
    recover(run.capture)
    with CaptureReader(run.capture) as capture:
        outcome = capture.fact("outcome")
        started_ns = capture.fact("started")["monotonic_ns"]
        last_ns = started_ns + max(sample.t_ns for sample in capture.samples())
    expected = {"worker": "signalled", "supervisor": "failed", "command": "cancelled"}
    if (victim, phase) == ("worker", "verify"):  # the load was over: that death is not the strategy's
        expected["worker"] = "completed"
    assert outcome["outcome"] == expected[victim], outcome
    assert killed_ns - last_ns < LOSS_NS
    if victim == "worker":
        assert "SIGKILL" in outcome["message"]
    if expected[victim] == "signalled":
        assert outcome["died_at"]["phase"] in {phase, "copy"}
    if victim != "command":
        assert run.command.returncode == (0 if expected[victim] == "completed" else 4)
    assert_portable(run.capture)


def test_given_a_run_when_ctrl_c_is_pressed_then_it_is_cancelled_and_says_so(run: Run) -> None:
    until(lambda: phase_of(run.capture) == "build")
    processes = family(run)

    os.kill(run.command.pid, signal.SIGINT)
    _, stderr = run.command.communicate(timeout=DEADLINE_S)

    assert run.command.returncode == 130
    assert stderr.splitlines()[-1] == "meminspect: interrupted"
    assert all(gone(process) for process in processes.values())
    assert_portable(run.capture)
    with CaptureReader(run.capture) as capture:
        assert capture.fact("outcome")["outcome"] == "cancelled"


def assert_portable(capture: Path) -> None:
    """One file, and no journal beside it is needed (https://sqlite.org/fileformat.html, bytes 18 and 19: 2 is WAL)."""
    assert sorted(path.name for path in capture.parent.iterdir()) == [capture.name]
    assert capture.read_bytes()[18:20] == b"\x01\x01"
