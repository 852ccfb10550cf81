"""`meminspect.stream.load` beside the machine's floor and the field's loaders, each load in a fresh process.

    pytest tests/benchmarks/test_stream.py --benchmark-only -s --pairs 15 --peers-python PYTHON

In every round each contender loads once, so that ratios are of neighbours in time; on a busy machine only they mean
anything. `--peers-python` is an interpreter that has torch, safetensors, fastsafetensors and runai-model-streamer,
where this one lacks them. `--checkpoint-bytes` is 2.7e9 unless given; that much is needed three times on disk, and
the page cache must hold twice that much beside one load.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import torch
from checkpoint_variants import sound
from safetensors.torch import save_file

from meminspect.checkpoint import read_checkpoint
from meminspect.page_cache import evict, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]
    Result = dict[str, Any]

Contender = TypeVar("Contender")

HUGE = {"THP_MEM_ALLOC_ENABLE": "1"}  # torch's own allocator asks for huge pages
ROOM = 1.3  # of the files: the most memory that any contender takes
POPULATE_WRITE = 23
SMALL_TENSORS = 100_000
SMALL_BYTES = 10_000
SHARDS = 6

# Contender, the layout that it reads, its environment.
WARM: list[tuple[str, str, dict[str, str]]] = [
    ("floor", "safetensors", {}),
    ("stream", "safetensors", {}),
    ("floor, touched", "safetensors", {}),
    ("stream", "bin", {}),
    ("torch.load", "bin", {}),
    ("torch.load", "bin", HUGE),
    ("torch.load mapped, cloned", "bin", {}),
    ("torch.load mapped, cloned", "bin", HUGE),
    ("safetensors mapped, cloned", "safetensors", {}),
    ("safetensors mapped, cloned", "safetensors", HUGE),
    ("safetensors pread", "safetensors", {}),
    ("fastsafetensors", "safetensors", {}),
    ("runai-model-streamer", "safetensors", {}),
]
COLD = ["sequential read", "sequential read past the cache", "stream", "safetensors mapped, cloned"]
MAPPED = [
    (contender, layout)
    for layout in ("safetensors", "bin")
    for contender in (
        "mapped, touched", "mapped, populate", "mapped, thread, touched", "mapped, willneed, touched",
    )
]  # fmt: skip
SMALL = ["floor", "stream"]


def turned(contenders: Sequence[Contender], rounds: int) -> list[Contender]:
    """Another begins each round: the first may warm what no eviction reaches, such as a hypervisor's cache."""
    first = rounds % len(contenders)
    return [*contenders[first:], *contenders[:first]]


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    pairs: int = request.config.getoption("--pairs")
    return pairs


def held_memory(nbytes: int) -> mmap.mmap:
    """Memory that a load will find free: what is free for seconds, a virtual machine gives back to its host.

    Its next touch then costs up to ten times as much. What is held meanwhile stays, and so does what a load has just
    left.
    """
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory.madvise(POPULATE_WRITE)
    return memory


@pytest.fixture(scope="session")
def one_load(request: pytest.FixtureRequest) -> Callable[..., Result]:
    python = request.config.getoption("--peers-python") or sys.executable

    def run(contender: str, folder: Path, environment: dict[str, str] | None = None) -> Result:
        program = Path(__file__).with_name("one_load.py")
        command = [python, str(program), json.dumps(sys.path), contender, json.dumps(str(folder))]
        ballast = held_memory(int(ROOM * sum(path.stat().st_size for path in folder.iterdir())))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        ) as process:
            assert process.stdout is not None
            last = process.stdout.readline()
            if last == "ready\n":
                ballast.close()
                last, _ = process.communicate("\n")
        assert process.returncode == 0, contender
        result: Result = json.loads(last)
        print(f"{contender} {environment or ''} {folder.name}: {result}", flush=True)  # noqa: T201 - rounds are long
        return result

    return run


@pytest.fixture(scope="session")
def checkpoint_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, nbytes = tmp_path_factory.mktemp("stream"), request.config.getoption("--checkpoint-bytes")

    def written(layout: str) -> Path:
        path = folder / layout
        return path if path.exists() else sound(path, layout, parameters=int(nbytes / 2), shards=SHARDS)

    return written


def quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def load_of_the_machine() -> str:
    return "load " + " ".join(Path("/proc/loadavg").read_text().split()[:3])


@pytest.mark.timeout(7200)
def test_warm(
    benchmark: BenchmarkFixture,
    figure: Figure,
    rounds: int,
    one_load: Callable[..., Result],
    checkpoint_of: Callable[[str], Path],
) -> None:
    results: dict[str, list[Result]] = defaultdict(list)

    def one_round() -> None:
        for contender, layout, environment in turned(WARM, len(results["floor"])):
            for file in read_checkpoint(checkpoint_of(layout)).files:
                warm(file.path)
            name = f"{contender}{' from bin' if (contender, layout) == ('stream', 'bin') else ''}"
            results[f"{name}{', THP' if environment else ''}"].append(
                one_load(contender, checkpoint_of(layout), environment)
            )

    benchmark.pedantic(one_round, rounds=rounds)
    nbytes = read_checkpoint(checkpoint_of("safetensors")).nbytes
    figure(f"warm: {nbytes / 1e9:.2f} GB, {rounds} rounds", load_of_the_machine())
    for name, loads in results.items():
        if "skipped" in loads[0]:
            figure(f"  {name}", loads[0]["skipped"])
            continue
        seconds = [load["s"] for load in loads]
        figure(
            f"  {name}",
            f"{quartiles(seconds)} s; {quartiles(ratios(seconds, results['floor']))} × the floor; "
            f"{quartiles(ratios(seconds, results['stream']))} × stream; "
            f"peak {max(load['peak_bytes'] for load in loads) / nbytes:.3f} × the checkpoint",
        )
    assert max(load["peak_bytes"] for load in results["stream"]) <= 1.01 * nbytes


def ratios(seconds: list[float], others: list[Result]) -> list[float]:
    return [one / other["s"] for one, other in zip(seconds, others, strict=True)]


@pytest.mark.timeout(7200)
def test_cold(
    benchmark: BenchmarkFixture,
    figure: Figure,
    rounds: int,
    one_load: Callable[..., Result],
    checkpoint_of: Callable[[str], Path],
) -> None:
    folder, results = checkpoint_of("safetensors"), defaultdict(list)

    def one_round() -> None:
        for contender in turned(COLD, len(results["stream"])):
            for file in read_checkpoint(folder).files:
                assert evict(file.path), f"{file.name} is still in the page cache"
            results[contender].append(one_load(contender, folder))

    benchmark.pedantic(one_round, rounds=rounds)
    figure(f"cold, {rounds} rounds", load_of_the_machine())
    for name, loads in results.items():
        seconds = [load["s"] for load in loads]
        times, past = (ratios(seconds, results[f"sequential read{way}"]) for way in ("", " past the cache"))
        figure(
            f"  {name}",
            f"{quartiles(seconds)} s; {quartiles(times)} × the sequential read, {quartiles(past)} past the cache",
        )


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("state", ["warm", "cold"])
def test_mapped(
    benchmark: BenchmarkFixture,
    figure: Figure,
    rounds: int,
    one_load: Callable[..., Result],
    checkpoint_of: Callable[[str], Path],
    state: str,
) -> None:
    """Until every page has been looked at: reading ahead against the first touch of torch and of safetensors."""
    results: dict[tuple[str, str], list[float]] = defaultdict(list)

    def one_round() -> None:
        for contender, layout in turned(MAPPED, len(results[MAPPED[0]])):
            for file in read_checkpoint(checkpoint_of(layout)).files:
                if state == "warm":
                    warm(file.path)
                else:
                    assert evict(file.path), f"{file.name} is still in the page cache"
            results[contender, layout].append(one_load(contender, checkpoint_of(layout))["s"])

    benchmark.pedantic(one_round, rounds=rounds)
    figure(f"mapped and touched, {state}, {rounds} rounds", load_of_the_machine())
    for (contender, layout), seconds in results.items():
        plain = results["mapped, touched", layout]
        times = [one / other for one, other in zip(seconds, plain, strict=True)]
        figure(f"  {layout}: {contender}", f"{quartiles(seconds)} s; {quartiles(times)} × without")


@pytest.mark.timeout(3600)
def test_many_small_tensors(
    benchmark: BenchmarkFixture, figure: Figure, rounds: int, one_load: Callable[..., Result], tmp_path: Path
) -> None:
    tensors = {
        f"layers.{number // 100}.part{number % 100}": torch.full((SMALL_BYTES,), number % 251, dtype=torch.uint8)
        for number in range(SMALL_TENSORS)
    }
    save_file(tensors, tmp_path / "model.safetensors")
    del tensors
    above: list[float] = []

    def one_round() -> None:
        took = {contender: one_load(contender, tmp_path)["s"] for contender in turned(SMALL, len(above))}
        above.append((took["stream"] - took["floor"]) / SMALL_TENSORS * 1e6)

    benchmark.pedantic(one_round, rounds=rounds)
    figure(
        f"{SMALL_TENSORS:,} tensors in {SMALL_TENSORS * SMALL_BYTES / 1e9:.0f} GB, {rounds} rounds",
        f"{quartiles(above)} µs a tensor above the floor, header included; {load_of_the_machine()}",
    )
