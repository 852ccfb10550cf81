"""What watching a load costs: accounted for, and as a tripwire against the same load without us."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meminspect.strategies import NATIVE
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import Home
    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

PAIRS = 15
TRIPWIRE = 1.5  # identical loads differ by a fifth: 1 % cannot be seen this way, a blunder can
TOLERANCE_BYTES = 2 << 20  # of small loads: what the kernel's counters and the allocator's rounding leave open
TOLERANCE = 0.005


def instrumented(home: Home, checkpoint: Path, strategy: str) -> dict[str, Any]:
    done = home.meminspect("run", "--ckpt", checkpoint, "-s", strategy, "--json")
    assert done.status == 0, done
    return done.run


def bare(checkpoint: Path, tiny: Path, strategy: str, heap_bytes: int) -> dict[str, Any]:
    spec = {"checkpoint": str(checkpoint), "tiny": str(tiny), "strategy": strategy, "heap_bytes": str(heap_bytes)}
    program = Path(__file__).with_name("bare_load.py")
    command = [sys.executable, str(program), json.dumps(sys.path), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.mark.parametrize("strategy", [id_ for id_ in NATIVE if id_ != "per-tensor-files"])
def test_accounted_cost_and_memory_beside_a_twin(
    benchmark: BenchmarkFixture, figure: Figure, home: Home, half_a_gigabyte: Path, tiny: Path, strategy: str
) -> None:
    run = benchmark.pedantic(lambda: instrumented(home, half_a_gigabyte, strategy), rounds=1)
    cost, peak_bytes = run["overhead"], run["peak"]["rss_bytes"]
    figure(
        f"{strategy}: accounted cost",
        f"{100 * cost['accounted_fraction']:.2f} %: hooks {cost['hooks_s'] * 1e3:.1f} ms of a load of "
        f"{run['resident_s'] * 1e3:.0f} ms ({cost['events']:,} events), sampler {cost['sampler_cpu_s'] * 1e3:.0f} ms + "
        f"writer {cost['writer_cpu_s'] * 1e3:.0f} ms beside it; largest gap {cost['max_gap_ms']:.1f} ms",
    )
    twin_bytes = bare(half_a_gigabyte, tiny, strategy, run["theory"]["peak"]["heap_bytes"])["peak_bytes"]
    figure(
        f"{strategy}: peak against a twin never reset",
        f"{peak_bytes / 2**20:.2f} and {twin_bytes / 2**20:.2f} MiB: {100 * (peak_bytes / twin_bytes - 1):+.2f} %",
    )
    assert abs(peak_bytes - twin_bytes) <= max(TOLERANCE * twin_bytes, TOLERANCE_BYTES)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["meta-assign", "mmap-assign"])
def test_a_watched_load_takes_as_long_as_one_that_is_not(
    benchmark: BenchmarkFixture, figure: Figure, home: Home, half_a_gigabyte: Path, tiny: Path, strategy: str
) -> None:
    ratios: list[float] = []
    seconds: list[float] = []

    def pair() -> None:
        run = instrumented(home, half_a_gigabyte, strategy)
        alone = bare(half_a_gigabyte, tiny, strategy, run["theory"]["peak"]["heap_bytes"])
        ratios.append(run["resident_s"] / alone["resident_s"])
        seconds.append(alone["resident_s"])

    benchmark.pedantic(pair, rounds=PAIRS, warmup_rounds=1)
    low, median, high = statistics.quantiles(ratios[1:], n=4)
    figure(
        f"{strategy}: watched / bare, {PAIRS} pairs",
        f"median {median:.3f}, quartiles {low:.3f} to {high:.3f}; bare {statistics.median(seconds[1:]) * 1e3:.0f} ms "
        f"± {100 * statistics.stdev(seconds[1:]) / statistics.mean(seconds[1:]):.0f} %",
    )
    assert median < TRIPWIRE
