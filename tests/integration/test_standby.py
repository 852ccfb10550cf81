"""A supervisor and worker that are started ahead of their run: what they save must cost nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from command_line import Home, until
from discrepancies import discrepancies

from meminspect.analysis.run import run_document
from meminspect.capture.store import CaptureReader
from meminspect.engine.session import Session, Standby
from meminspect.engine.spec import RunSpec
from meminspect.engine.worker_process import WorkerProcess
from meminspect.sampling.interpreter import Interpreter
from meminspect.strategies import LoadOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from checkpoint_variants import Variants

# An app that waits for its user, in a process of its own.
APP = "from meminspect.engine.session import Standby; standby = Standby(); print(flush=True); input()"
# What the machine does meanwhile, and where the captures lie, is no difference. The plan has what the machine has left.
VARYING = {"spec", "started", "supervision", "hooks", "machine", "plan", "environment", "baseline", "returned",
           "resident", "window", "steady", "io", "pressure"}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The home of what this process and its children start."""
    made = Home(tmp_path / "home")
    made.folder.mkdir()
    for name, below in {"HOME": "", "XDG_CACHE_HOME": "cache", "TMPDIR": ""}.items():
        monkeypatch.setenv(name, str(made.folder / below))
    yield made
    until(lambda: not made.processes())


def workers(home: Home) -> list[psutil.Process]:
    found = []
    for process in home.processes():
        with contextlib.suppress(psutil.Error):
            if "worker/__main__.py" in " ".join(process.cmdline()):
                found.append(process)
    return found


def has_torch(process: psutil.Process) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()


def waiting(home: Home) -> psutil.Process:
    """The standby's worker, once it is there and has torch."""
    until(lambda: any(has_torch(worker) for worker in workers(home)))
    (worker,) = workers(home)
    return worker


def kill_wholly(process: psutil.Process) -> None:
    """Kill a process and wait for the end of its last thread: its pipes stay open until then."""
    pidfd = os.pidfd_open(process.pid)
    process.kill()
    select.select([pidfd], [], [])
    os.close(pidfd)


def spec_of(checkpoint: Path, strategy: str, home: Home, **others: Any) -> RunSpec:
    return RunSpec(checkpoint, strategy, home.folder / f"{strategy}.meminspect", **others)


def ended(spec: RunSpec, standby: Standby | None) -> dict[str, Any]:
    """Run to the end; all that the capture says."""
    Session(spec, standby).wait()
    with CaptureReader(spec.capture) as capture:
        times = [event.t_ns for _, event in capture.events()]
        assert times == sorted(times)
        assert min(times, default=0) >= 0
        facts = {name: capture.fact(name) for name in fact_names(spec.capture)}
        return {"run": run_document(capture), "facts": facts, "phases": phases(capture)}


def fact_names(capture: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(capture)) as database:
        return [name for (name,) in database.execute("SELECT name FROM facts")]


def phases(capture: CaptureReader) -> list[str]:
    return [event.name for _, event in capture.events() if event.kind.name == "PHASE"]


def test_given_a_standby_then_the_run_has_its_worker_and_the_same_peaks_and_facts(
    variants: Variants, home: Home, tmp_path: Path
) -> None:
    strategy = "mmap-assign"
    standby = Standby()
    worker_pid = waiting(home).pid
    assert sorted(path.name for path in home.folder.iterdir()) == [], "nothing is written"

    ahead = ended(spec_of(variants["big"], strategy, home), standby)
    alone = ended(RunSpec(variants["big"], strategy, tmp_path / "alone.meminspect"), None)

    assert ahead["facts"]["environment"]["pid"] == worker_pid
    assert alone["facts"]["environment"]["pid"] != worker_pid
    for run in (ahead["run"], alone["run"]):
        assert run["outcome"] == "completed"
        assert discrepancies(run) == []
    assert ahead["phases"] == alone["phases"]
    assert ahead["facts"].keys() == alone["facts"].keys()
    assert ahead["facts"]["plan"]["work_bytes"] == alone["facts"]["plan"]["work_bytes"]
    for name in ahead["facts"].keys() - VARYING:
        assert ahead["facts"][name] == alone["facts"][name], name
    assert abs(ahead["run"]["baseline"]["rss_bytes"] - alone["run"]["baseline"]["rss_bytes"]) < 16 << 20


def test_given_a_worker_that_dies_while_it_waits_then_the_run_gets_another(variants: Variants, home: Home) -> None:
    standby = Standby()
    dead = waiting(home)
    kill_wholly(dead)

    done = ended(spec_of(variants["meta"], "mmap-assign", home), standby)

    assert done["run"]["outcome"] == "completed"
    assert done["facts"]["environment"]["pid"] != dead.pid


def test_given_a_supervisor_that_dies_while_it_waits_then_the_run_gets_another(variants: Variants, home: Home) -> None:
    standby = Standby()
    supervisor = waiting(home).parent()
    assert supervisor is not None
    kill_wholly(supervisor)

    done = ended(spec_of(variants["meta"], "mmap-assign", home), standby)

    assert done["run"]["outcome"] == "completed"
    assert done["facts"]["spec"]["supervisor_pid"] != supervisor.pid


@pytest.mark.parametrize(
    "difference", [{"limit_bytes": 1 << 40}, {"python": "/absent/python"}], ids=["limit", "interpreter"]
)
def test_given_a_run_that_the_standby_is_not_fit_for_then_it_is_ended_and_the_run_starts_afresh(
    variants: Variants, home: Home, difference: dict[str, Any]
) -> None:
    standby = Standby()
    unfit = waiting(home)
    supervisor = unfit.parent()
    assert supervisor is not None

    session = Session(spec_of(variants["meta"], "mmap-assign", home, **difference), standby)

    assert not supervisor.is_running()
    assert not unfit.is_running()
    session.cancel()
    session.wait()


def test_given_a_waiting_worker_then_what_it_holds_is_its_memory_without_the_pages_of_files(home: Home) -> None:
    with WorkerProcess(sys.executable) as worker:
        until(lambda: has_torch(psutil.Process(worker.pid)))
        memory = psutil.Process(worker.pid).memory_info()
        assert worker.alive
        assert 32 << 20 < worker.held_bytes() < memory.rss, "at least the ring of events"

        worker.kill()

        until(lambda: not worker.alive)
        assert worker.held_bytes() == 0


def test_given_an_interpreter_that_is_not_there_then_the_run_says_so(variants: Variants, home: Home) -> None:
    standby = Standby("/absent/python")

    done = ended(
        spec_of(variants["meta"], "naive", home, options=LoadOptions(interpreter=Interpreter("/absent/python"))),
        standby,
    )

    assert done["run"]["outcome"] == "failed"
    assert "cannot start the worker with /absent/python" in done["run"]["message"]


@pytest.mark.parametrize("imported", [False, True], ids=["just started", "when torch is there"])
def test_given_a_standby_when_it_is_closed_then_nothing_is_left(home: Home, imported: bool) -> None:
    standby = Standby()
    if imported:
        waiting(home)

    standby.close()

    assert home.processes() == []
    assert list(home.folder.iterdir()) == []
    standby.close()


@pytest.mark.parametrize(
    ("signal_", "imported"),
    [(signal.SIGKILL, True), (signal.SIGTERM, False)],
    ids=["killed when torch is there", "ended when just started"],
)
def test_given_an_app_with_a_standby_when_it_is_killed_then_nothing_is_left(
    home: Home, signal_: signal.Signals, imported: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", APP], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as app:
        assert app.stdout is not None
        app.stdout.readline()
        if imported:
            waiting(home)
        os.kill(app.pid, signal_)

    until(lambda: not home.processes())
    assert list(home.folder.iterdir()) == []
