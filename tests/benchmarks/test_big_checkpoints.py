"""Headers and theory of checkpoints with very many tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meminspect.checkpoint import read_checkpoint
from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

SHAPE, NBYTES = (64, 64), 2 * 64 * 64
FILES = 10


def _name(index: int) -> str:
    return f"blocks.{index // 10}.part{index % 10}.weight"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tensors", [100_000, 1_000_000])
def test_theory_of_many_tensors(benchmark: BenchmarkFixture, figure: Figure, tensors: int) -> None:
    files = tuple(CheckpointFile(f"{index}.safetensors", Path(f"/{index}.safetensors"), 0) for index in range(FILES))
    stored = tuple(
        StoredTensor(name, "float16", SHAPE, Storage(index * FILES // tensors, name, index * NBYTES, NBYTES))
        for index in range(tensors)
        for name in (_name(index),)
    )
    checkpoint = Checkpoint(Path("/x"), "safetensors-sharded", files, stored)

    def theories() -> list[int]:
        task = task_for(checkpoint, LoadOptions())
        return [strategy.theory(task).peak_rss_bytes for strategy in STRATEGIES.values()]

    peaks = benchmark.pedantic(theories, rounds=1)
    figure(f"theory of {tensors:,} tensors, all strategies", f"{benchmark.stats.stats.median:.2f} s")
    assert min(peaks) == tensors * NBYTES


def test_headers_of_many_tensors(benchmark: BenchmarkFixture, figure: Figure, tmp_path: Path) -> None:
    tensors = 100_000
    header = json.dumps(
        {
            _name(index): {"dtype": "F16", "shape": SHAPE, "data_offsets": [index * NBYTES, (index + 1) * NBYTES]}
            for index in range(tensors)
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + tensors * NBYTES)

    checkpoint = benchmark.pedantic(lambda: read_checkpoint(file), rounds=3)
    figure(f"headers of {tensors:,} tensors", f"{benchmark.stats.stats.median:.2f} s")
    assert len(checkpoint.tensors) == tensors
