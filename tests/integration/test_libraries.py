"""The field's libraries as their users call them: real loads, with every byte attributed.

All of them: pip install -e '.[libraries]', then pytest -m "slow or not slow" tests/integration/test_libraries.py
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

import pytest
from worker_runs import run_worker

from meminspect.api import run
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.warmup import tiny_twin
from meminspect.strategies import LIBRARIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

MODULES: Final = {"lightning-fabric": "lightning_fabric", "runai-model-streamer": "runai_model_streamer"}
CELLS: Final = [(strategy, dtype) for strategy in LIBRARIES for dtype in (None, "bfloat16")]
OFFLOADING: Final = ("hf-device-map", "accelerate-dispatch")
FAST: Final = ("hf-pretrained", "bfloat16")  # in threads, with a cast


def _is_installed(strategy: str) -> bool:
    names = [MODULES.get(package.name, package.name) for package in LIBRARIES[strategy].packages]
    return all(importlib.util.find_spec(name) is not None for name in names)


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    [cell if cell == FAST else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)
def test_a_library_loads_every_tensor_and_nearly_every_byte_has_a_name(
    tmp_path: Path, strategy: str, dtype: str | None
) -> None:
    if not _is_installed(strategy):
        pytest.skip(f"{' or '.join(package.name for package in LIBRARIES[strategy].packages)} is not installed")
    layout = "meta" if strategy.startswith("fabric-") else "safetensors"
    naming = "meta" if layout == "meta" else "hf"
    path = tiny_checkpoint("llama", naming, layout, "float16", tmp_path / "tiny", shards=1 if layout == "meta" else 2)
    options = LoadOptions(dtype=dtype)

    with tiny_twin(task_for(read_checkpoint(path), options)) as tiny:
        run = run_worker(strategy, path, tiny, options)

    assert run.status == 0, run.log
    tensors, attribution = run.reports["tensors"], run.reports["attribution"]
    assert tensors["verified"] == tensors["expected"] == len(run.task.pieces)
    assert (tensors["mismatched"], tensors["missing"], tensors["unexpected"]) == (0, 0, 0)
    assert attribution["named_bytes"] >= run.task.checkpoint.nbytes
    # The rest is the rotary tables, which weigh something in a model as tiny as this.
    assert attribution["unattributed_bytes"] < 16 << 10, attribution
    assert run.reports["packages"].keys() == {package.name for package in LIBRARIES[strategy].packages}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "layout", "dtype"),
    [("llama", "safetensors", None), ("llama", "bin", "bfloat16"), ("gpt2", "safetensors", "bfloat16")],
)
@pytest.mark.parametrize("strategy", OFFLOADING)
def test_what_has_no_room_is_left_on_disk_as_theory_says_and_verified_from_there(
    tmp_path: Path, strategy: str, dtype: str | None, layout: str, architecture: str
) -> None:
    if not _is_installed(strategy):
        pytest.skip(f"{' or '.join(package.name for package in LIBRARIES[strategy].packages)} is not installed")
    path = tiny_checkpoint(architecture, "hf", layout, "float16", tmp_path / "tiny", shards=2)
    room_bytes = task_for(read_checkpoint(path), LoadOptions()).floor_bytes * 4 // 5
    options = LoadOptions(dtype=dtype, max_memory_bytes=room_bytes)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    with tiny_twin(task_for(read_checkpoint(path), options)) as tiny:
        run = run_worker(strategy, path, tiny, options, scratch)

    assert run.status == 0, run.log
    left = LIBRARIES[strategy].offloads(run.task)
    staying = run.task.floor_bytes - run.task.target_bytes(left)
    assert 0 < staying < run.task.floor_bytes
    assert run.reports["steady"]["live_bytes"] - staying < 4 << 10  # rotary tables
    tensors, attribution = run.reports["tensors"], run.reports["attribution"]
    assert tensors["verified"] == tensors["expected"] == len(run.task.pieces)
    assert tensors["mismatched"] == tensors["unexpected"] == 0
    assert attribution["unattributed_bytes"] < 16 << 10, attribution
    written = sum(file.stat().st_size for file in scratch.rglob("*.*") if file.suffix in (".dat", ".safetensors"))
    assert (written > 0) == (LIBRARIES[strategy].scratch_bytes(run.task) > 0)


@pytest.mark.slow
def test_what_was_written_to_a_temporary_folder_is_gone_after_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not _is_installed("accelerate-dispatch"):
        pytest.skip("accelerate is not installed")
    path = tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path / "tiny")
    nbytes, scratch = read_checkpoint(path).nbytes, tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))

    done = run(path, "accelerate-dispatch", max_memory_bytes=nbytes * 4 // 5, capture=tmp_path / "x.meminspect")

    assert done.outcome == "completed", done.message
    assert "were written to a temporary folder" in done.message
    assert not list(scratch.iterdir())
