"""A machine, a checkpoint and a user's home that are the same everywhere; and no worker is ever started."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from captures import MACHINE, USABLE_BYTES
from screens import CHECKPOINT, FakeSession, FakeStandby

from meminspect.checkpoint import read_checkpoint
from meminspect.page_cache import Residency
from meminspect.sampling.machine import Machine
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise
from meminspect.tui.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meminspect.strategies import LoadTask


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and everything a user has."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def stillness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing glides to where it goes."""
    monkeypatch.setattr("textual.constants.TEXTUAL_ANIMATIONS", "none")


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches: what is done a few times a second is done more often."""
    monkeypatch.setattr("meminspect.tui.screens.watch._FRAME_S", 0.03)
    monkeypatch.setattr("meminspect.tui.following._INTERVAL_S", 0.02)
    monkeypatch.setattr("textual._wait.SLEEP_GRANULARITY", 0.004)
    monkeypatch.setattr("textual._wait.SLEEP_IDLE", 0.0004)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB, of which 14 can be had; everything is in the page cache."""
    found = Machine(16 << 30, USABLE_BYTES, None, None, 0, (), "2.13.0", str(MACHINE["kernel"]), "madvise")
    monkeypatch.setattr("meminspect.strategies.streaming.default_threads", lambda: 2)  # each has its staging
    monkeypatch.setattr("meminspect.analysis.subject.read_machine", lambda: found)
    monkeypatch.setattr("meminspect.analysis.subject.file_system_of", lambda _: "ext4")
    monkeypatch.setattr("meminspect.analysis.subject.page_cache.cached_fraction", lambda _: Residency(1.0, ""))


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeSession]]:
    """Sessions that write captures of runs that never took place; the last of them before the folder is left."""
    FakeSession.begun, FakeStandby.made = [], []
    monkeypatch.setattr("meminspect.tui.runs.Session", FakeSession)
    monkeypatch.setattr("meminspect.engine.session.Standby", FakeStandby)
    yield FakeSession
    for runs in [thread for thread in threading.enumerate() if isinstance(thread, Runs)]:
        runs.cancel()
        runs.join()


@pytest.fixture
def task(home: Path) -> LoadTask:
    """2.5 GiB in six files that take no disk."""
    architecture = architecture_for("llama", "safetensors", parameters=1_300_000_000)
    synthesise(SynthesisSpec(CHECKPOINT, architecture, "safetensors", "float16", 6, sparse=True))
    return task_for(read_checkpoint(CHECKPOINT), LoadOptions())
