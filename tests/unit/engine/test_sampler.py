from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from meminspect.engine import sampler as sampler_module
from meminspect.engine.sampler import Sampler
from meminspect.sampling.cgroups import MemoryGroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.capture.records import Sample

MIB = 1 << 20
PLANTED = 64 * MIB
DEADLINE_S = 20


def until(condition: Callable[[], object]) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        pause.wait(0.005)


def sampled(sampler: Sampler, count: int) -> list[Sample]:
    """So many further samples."""
    wanted = sampler.count + count
    until(lambda: sampler.count >= wanted)
    return sampler.take()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples where a run has one."""
    monkeypatch.setattr(sampler_module, "_INTERVAL_S", 0.01)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(os.getpid(), lambda: 7)


def test_given_memory_when_it_comes_then_short_and_whole_samples_tell_it_alike(sampler: Sampler) -> None:
    sampler.start()
    before = sampled(sampler, 10)[-1]
    with mmap.mmap(-1, PLANTED, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as planted:
        for page in range(0, PLANTED, mmap.PAGESIZE):
            planted[page] = 1
        sampled(sampler, 2)  # which may have been begun before the last page was there
        there = sampled(sampler, 20)
    sampler.stop()

    whole = [sample for sample in there if sample.minor_faults is not None]
    assert 0 < len(whole) < len(there)
    for sample in there:
        assert abs(sample.heap_bytes - before.heap_bytes - PLANTED) < 4 * MIB
        assert abs(sample.file_bytes - before.file_bytes) < 4 * MIB
        assert (sample.high_water_bytes is None) == (sample.minor_faults is None)
        assert sample.high_water_bytes is None or sample.high_water_bytes >= sample.heap_bytes
    assert {sample.vram_used_bytes for sample in there} == {7}
    assert sampler.last_rss_bytes == sum(there[-1][1:4])
    assert sampler.failure is None
    assert sampler.cpu_s > 0
    assert sampler.max_gap_ns > 0


def test_given_a_process_when_it_ends_then_the_sampling_ends_without_a_failure() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sampler = Sampler(process.pid, lambda: None)
    sampler.start()
    assert sampled(sampler, 3)
    process.communicate(b"\n")
    sampler.join(DEADLINE_S)
    assert not sampler.is_alive()
    assert sampler.failure is None


def test_given_a_group_when_its_page_cache_comes_and_goes_then_the_most_of_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("file 4096\nshmem 0\n")
    sampler = Sampler(os.getpid(), lambda: None, MemoryGroup(tmp_path, tmp_path, 2))
    sampler.start()
    sampled(sampler, 10)
    (tmp_path / "memory.stat").write_text("file 1024\nshmem 0\n")
    sampled(sampler, 10)
    sampler.stop()
    assert sampler.group_file_bytes == 4096


def test_given_a_device_that_fails_when_it_is_read_then_the_failure_is_kept() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    sampler = Sampler(os.getpid(), fail)
    sampler.start()
    sampler.join(DEADLINE_S)
    assert isinstance(sampler.failure, ZeroDivisionError)
