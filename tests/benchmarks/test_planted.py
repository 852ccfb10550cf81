"""Accuracy: memory of a known size is planted, and what is recorded is divided by it, beside other instruments.

`pytest tests/benchmarks/test_planted.py --benchmark-only -s` prints the table; `pip install -e '.[bench]'` brings the
others. Each figure is the median of several processes, with its range.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from planting import INSTRUMENTS, MIB, Plant

from meminspect.analysis.window import window
from meminspect.capture.records import EventKind
from meminspect.engine import worker_process
from meminspect.engine.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

HERE = Path(__file__).parent
REPEATS = 5
EARLIEST_S, LATEST_S = 0.2, 0.4
TOLERANCE = 0.02
RESOLUTION_BYTES = (os.cpu_count() or 1) * 256 << 10  # the kernel's counters lag by 32 pages or more a processor


class Recorded(NamedTuple):
    """What meminspect made of a plant, in bytes above the baseline."""

    rss_bytes: int
    heap_bytes: int
    heap_bracket_bytes: int
    exact_bytes: int | None  # the mark of the one operation, where no other overlapped it


def by_meminspect(plant: Plant) -> Recorded:
    with worker_process.WorkerProcess(sys.executable) as worker:
        sampler = Sampler(worker.pid, lambda: None)
        sampler.start()
        worker.start(dataclasses.asdict(plant))
        status = worker.wait()
        sampler.stop()
        events, samples, lost = list(worker.ring.drain()), sampler.take(), worker.ring.lost
        assert (status, lost, sampler.failure) == (0, 0, None), worker.take_log()
    cut = window(events, samples)
    assert cut is not None
    assert cut.exact
    base = cut.baseline.held.rss_bytes
    exact = [e.reading.high_water_bytes - base for e in events if e.kind is EventKind.END and e.exact and e.reading]
    return Recorded(cut.peak_rss_bytes, cut.peaks().heap_bytes, cut.brackets().heap_bytes, max(exact, default=None))


def by_other(name: str, plant: Plant, folder: Path) -> float:
    command = [sys.executable, str(HERE / "planting.py"), name, json.dumps(dataclasses.asdict(plant)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def score(values: list[float], planted_bytes: int) -> str:
    ratios = [value / planted_bytes for value in values]
    return f"{statistics.median(ratios):5.3f} ({min(ratios):5.3f}–{max(ratios):5.3f})"


def row(cells: list[str]) -> str:
    return "  ".join(f"{cell:19}" for cell in cells)


def of_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


@pytest.fixture(scope="session", autouse=True)
def head(figure: Figure) -> None:
    figure(
        "recorded ÷ planted: median (range)", row(["meminspect", *INSTRUMENTS, "meminspect's heap, with its bracket"])
    )


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("plateau_ms", [0.1, 1, 20])
@pytest.mark.parametrize("size_mib", [4, 64, 256])
def test_what_instruments_record_of_what_is_planted(
    benchmark: BenchmarkFixture,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    size_mib: int,
    plateau_ms: float,
    threads: int,
) -> None:
    for name in ("memray", "memory_profiler"):
        pytest.importorskip(name, reason="pip install -e '.[bench]'")
    monkeypatch.setattr(worker_process, "ENTRY", HERE / "planting_worker.py")
    chance = random.Random(f"{size_mib} {plateau_ms} {threads}")  # noqa: S311 - the same moments every time
    ours: list[Recorded] = []
    others: dict[str, list[float]] = {name: [] for name in INSTRUMENTS}

    def in_turn() -> None:
        for _ in range(REPEATS):
            plant = Plant(size_mib * MIB, plateau_ms / 1e3, threads, chance.uniform(EARLIEST_S, LATEST_S))
            ours.append(by_meminspect(plant))
            for name, recorded in others.items():
                recorded.append(by_other(name, plant, tmp_path))
            others["memray"][-1] -= by_other("memray", dataclasses.replace(plant, nbytes=0), tmp_path)

    benchmark.pedantic(in_turn, rounds=1)
    planted = size_mib * MIB
    scores = [score([run.rss_bytes for run in ours], planted), *(score(them, planted) for them in others.values())]
    lowest = score([run.heap_bytes for run in ours], planted)
    highest = score([run.heap_bytes + run.heap_bracket_bytes for run in ours], planted)
    figure(f"{size_mib:3} MiB for {plateau_ms} ms, {of_threads(threads)}", row([*scores, f"{lowest} to {highest}"]))
    for run in ours:
        assert run.rss_bytes == pytest.approx(planted, rel=TOLERANCE, abs=RESOLUTION_BYTES)
        assert run.heap_bytes - RESOLUTION_BYTES <= planted
        assert planted <= run.heap_bytes + run.heap_bracket_bytes + RESOLUTION_BYTES
        assert threads > 1 or run.exact_bytes == pytest.approx(planted, rel=TOLERANCE, abs=RESOLUTION_BYTES)
