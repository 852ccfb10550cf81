"""How the end of a worker is told, with a pidfd and where there is none."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

import pytest

from meminspect.engine.cancellation import Cancellation, Ending
from meminspect.engine.worker_process import WorkerProcess


def refuse(*_: object) -> NoReturn:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["pidfd", "absent", "forbidden"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system with pidfds, one without, and a container that forbids them."""
    if request.param == "absent":
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(signal, "pidfd_send_signal")
    elif request.param == "forbidden":
        monkeypatch.setattr(os, "pidfd_open", refuse)
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    return str(request.param)


@pytest.mark.usefixtures("system")
def test_a_worker_is_alive_until_it_is_killed_and_its_end_is_told() -> None:
    with WorkerProcess(sys.executable) as worker:
        assert worker.alive
        assert Cancellation().end_of(worker.end, 0.01) is Ending.TIMED_OUT

        worker.kill()

        assert Cancellation().end_of(worker.end, 60) is Ending.ITSELF
        assert not worker.alive
        assert worker.wait() == -signal.SIGKILL
        worker.kill()  # nobody is hit any more


@pytest.mark.usefixtures("system")
def test_leaving_a_worker_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - procfs
    with WorkerProcess(sys.executable):
        pass
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208 - the far end closes in its thread's time
