"""Every death of a run, through the command; and whoever is killed, whenever, nothing is left running.

| death              | outcome       | exit | where it is tested                                                      |
|--------------------|---------------|------|-------------------------------------------------------------------------|
| OOM kill           | oom_killed    | 3    | test_cli_limit (its limit), test_cli_run_troubles (a cgroup around it)  |
| allocation failure | out_of_memory | 3    | test_cli_run_troubles                                                   |
| Python exception   | failed        | 4    | test_cli_run_troubles (a file that shrinks, a shard that vanishes)      |
| signal             | signalled     | 4    | here: SIGTERM, SIGSEGV or SIGKILL, in every phase                       |
| time-out           | timed_out     | 4    | here                                                                    |
| cancelled          | cancelled     | 130  | here: Ctrl-C                                                            |
| parent gone        | cancelled     | –    | here: the command is killed in every phase                              |
| refused            | refused       | 4    | test_cli_run, test_cli_run_troubles                                     |
| supervisor killed  | failed        | 4    | here, in every phase                                                    |
| in verification    | completed     | 0    | here: worker, supervisor                                                |
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pytest
from command_line import DEADLINE_S, Home, phase_of, until

from meminspect.capture.store import CaptureReader
from meminspect.engine.session import recover
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGNALS = {"import": signal.SIGTERM, "build": signal.SIGSEGV}  # to the worker; SIGKILL in the other phases
SAYS = {"worker": "killed by SIG", "supervisor": "the supervisor was killed", "command": "cancelled"}
AFTER = {"read": {"copy"}}  # so short here that what was aimed at may be over
LOSS_NS = {"worker": 200_000_000, "command": 200_000_000, "supervisor": 450_000_000}  # which had not committed all


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


@pytest.mark.parametrize(
    ("victim", "phase"),  # every process at its beginning, in the load and after it; a run takes seconds of two cores
    [
        ("worker", "read"),
        *(pytest.param(victim, phase, marks=pytest.mark.slow) for victim, phase in (
            ("command", "warm-up"),
            ("worker", "import"), ("supervisor", "build"), ("worker", "warm-up"), ("worker", "verify"),
            ("supervisor", "verify"), ("command", "read"),
        )),
    ],
)  # fmt: skip
def test_given_a_run_when_one_process_is_killed_then_none_is_left_and_the_capture_tells(
    run: Run, victim: str, phase: str
) -> None:
    until(lambda: phase_of(run.capture) == phase)
    processes = family(run)

    killed_ns = time.monotonic_ns()
    signal_ = SIGNALS.get(phase, signal.SIGKILL) if victim == "worker" else signal.SIGKILL
    processes[victim].send_signal(signal_)

    until(lambda: all(gone(process) for name, process in processes.items() if name != "command"))
    run.command.wait(DEADLINE_S)
    recover(run.capture)
    with CaptureReader(run.capture) as capture:
        outcome = capture.fact("outcome")
        started_ns = capture.fact("started")["monotonic_ns"]
        last_ns = started_ns + max(sample.t_ns for sample in capture.samples())
        better = capture.fact("better")
    expected = {"worker": "signalled", "supervisor": "failed", "command": "cancelled"}
    if phase == "verify":  # the load was over: that death is not the strategy's
        expected.update(worker="completed", supervisor="completed")
    assert outcome["outcome"] == expected[victim], outcome
    assert killed_ns - last_ns < LOSS_NS[victim]
    assert SAYS[victim] in outcome["message"]
    if victim == "worker":
        assert signal_.name in outcome["message"]
        assert ("no OOM kill was counted" in outcome["message"]) is (signal_ is signal.SIGKILL)
        assert outcome["evidence"] is None
    assert ("whoever had started it is gone" in outcome["message"]) is (victim == "command")
    if expected[victim] == "completed":
        assert "the verification after it, which is meminspect's doing" in outcome["message"]
    else:
        assert_told(outcome, phase)
    assert better["strategy"] == "mmap-assign"
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
    outcome = told_by(run.capture)
    assert outcome["outcome"] == "cancelled"
    assert "whoever" not in outcome["message"]
    assert_told(outcome, "build")


def assert_told(outcome: dict[str, Any], phase: str) -> None:
    """Place and use are in the message, for a person, and beside it, for a machine."""
    assert outcome["died_at"]["phase"] in {phase, *AFTER.get(phase, ())}
    assert f"in phase '{outcome['died_at']['phase']}'" in outcome["message"]
    assert (outcome["died_at"]["tensor"] or "") in outcome["message"]
    assert outcome["ceiling"]["bytes"] > 0
    if phase in ("import", "warm-up"):
        assert outcome["in_use"] is None
    else:
        assert "heap" in outcome["message"]
        assert outcome["in_use"]["swap_bytes"] is not None


def told_by(capture: Path) -> dict[str, Any]:
    with CaptureReader(capture) as reader:
        outcome: dict[str, Any] = reader.fact("outcome")
    return outcome


def test_given_a_time_limit_when_it_is_over_then_the_run_has_timed_out_at_a_place(
    checkpoint: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")

    done = home.meminspect("run", "--ckpt", checkpoint, "-s", "naive", "--timeout", "200ms", "--json")

    assert (done.status, done.run["outcome"]) == (4, "timed_out")
    assert done.run["message"].startswith("timed out after 200.0 ms in phase 'import'")
    assert done.run["died_at"] == {"phase": "import", "tensor": None}
    assert (done.run["better"]["strategy"], done.run["tensors"]["verified"]) == ("mmap-assign", None)
    until(lambda: not home.processes())


def test_given_a_time_limit_that_is_none_then_the_option_is_named(tmp_path: Path) -> None:
    done = Home(tmp_path / "home").meminspect("run", "--demo", "-s", "naive", "--timeout", "soon")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "meminspect: error: --timeout: 'soon' is not a time\nhint: write it like 90s, 10min or 1h\n"


def assert_portable(capture: Path) -> None:
    """One file, and no journal beside it is needed (https://sqlite.org/fileformat.html, bytes 18 and 19: 2 is WAL)."""
    assert sorted(path.name for path in capture.parent.iterdir()) == [capture.name]
    assert capture.read_bytes()[18:20] == b"\x01\x01"
