"""Theories of very many tensors: worked out for fewer, and as good as the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.strategies import STRATEGIES, LoadOptions, LoadTask, Strategy
from meminspect.strategies.task import task_for
from meminspect.theory.ledger import evaluate

MANY, SHARE = 2000, 100
SIZES = (3, 700, 64, 1, 4096)


def many(count: int, files: int = 3) -> LoadTask:
    tensors, ends = [], [0] * files
    for index in range(count):
        file, size = index * files // count, SIZES[index % len(SIZES)]
        dtype = "int64" if index % 397 == 0 else "float16"
        nbytes = size * (8 if dtype == "int64" else 2)
        name = f"layers.{index // 10}.part{index % 10}"
        tensors.append(StoredTensor(name, dtype, (size,), Storage(file, name, ends[file], nbytes)))
        ends[file] += nbytes
    described = tuple(CheckpointFile(f"{file}", Path(f"{file}"), end) for file, end in enumerate(ends))
    checkpoint = Checkpoint(Path("many"), "safetensors-sharded", described, tuple(tensors))
    return task_for(checkpoint, LoadOptions())


@pytest.fixture(autouse=True)
def _fewer_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meminspect.strategies.coarse.MANY", MANY)
    monkeypatch.setattr("meminspect.strategies.coarse.SHARE", SHARE)


@pytest.fixture
def task() -> LoadTask:
    return many(MANY + 1)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_theory_of_very_many_tensors_is_off_by_less_than_a_group(
    task: LoadTask, strategy: Strategy, dtype: str | None
) -> None:
    cast = replace(task, options=LoadOptions(dtype=dtype))
    found, exact = strategy.theory(cast), evaluate(strategy.ledger(cast), cast.floor_bytes)

    wide = 4  # bytes of float32 for a group that is stored as float16, and what is staged beside it
    assert 0 <= found.peak_rss_bytes - exact.peak_rss_bytes <= wide * task.checkpoint.nbytes / SHARE
    assert (found.floor_bytes, found.steady, found.work_bytes) == (exact.floor_bytes, exact.steady, exact.work_bytes)


def test_so_many_tensors_are_a_fraction_of_them(task: LoadTask) -> None:
    grouped = task.coarse.checkpoint.tensors

    assert len(grouped) < len(task.checkpoint.tensors)
    assert sum(tensor.nbytes for tensor in grouped) == task.checkpoint.nbytes
    assert len({tensor.storage.file for tensor in grouped}) == 3


def test_ten_times_very_many_tensors_are_no_more_than_a_theory_can_bear() -> None:
    task = many(10 * MANY)

    assert len(task.coarse.checkpoint.tensors) < 3 * SHARE


def test_what_is_not_very_many_is_left_alone(task: LoadTask) -> None:
    few, on_device = many(MANY), replace(task, options=LoadOptions(device="cuda"))

    assert few.coarse is few
    assert on_device.coarse is on_device
