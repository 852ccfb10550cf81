"""Strategy × layout where a wrapper has put its name before every tensor's: loaded into the bare model, verified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from worker_runs import event_lines, ledger_lines, run_worker

from meminspect.checkpoint import LAYOUTS, read_checkpoint
from meminspect.engine.warmup import tiny_twin
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import naming_for, tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

# Of which model it is, how it is synthesised, and the strategies that have lines of their own for the names.
CELLS: Final[dict[str, tuple[str, str, int, tuple[str, ...]]]] = {
    "meta": ("llama", "meta", 2, ("stream", "sharded", "naive", "lazy")),
    "safetensors": ("gpt2", "safetensors", 1, ("stream", "mmap-assign", "lazy", "meta-assign", "lazy-quantize")),
    "safetensors-sharded": ("gpt2", "safetensors", 2, ("stream", "sharded")),
    "torch": ("gpt2", "bin", 1, ("stream", "mmap-assign", "lazy")),
    "torch-sharded": ("gpt2", "bin", 2, ("stream", "sharded")),
    "litgpt": ("litgpt", "litgpt", 1, ("stream", "mmap-assign", "lazy")),
    "per-tensor": ("gpt2", "per-tensor", 1, ("stream", "lazy", "per-tensor-files")),
    "dcp": ("gpt2", "safetensors", 1, ("stream", "naive", "meta-assign")),
}
PREFIX: Final = "_orig_mod.module."


def _wrapped(entries: dict[str, Any]) -> dict[str, Any]:
    return {PREFIX + name: entry for name, entry in entries.items()}


def _write(layout: str, out: Path) -> Path:
    model, writer, shards, _ = CELLS[layout]
    tiny_checkpoint(model, naming_for(model, writer), writer, "float16", out, shards=shards)
    for file in list(out.iterdir()):
        if layout == "dcp" and file.suffix == ".safetensors":
            dcp.save({"model": _wrapped(load_file(file))}, checkpoint_id=out, no_dist=True)
            file.unlink()
        elif file.suffix == ".safetensors":
            save_file(_wrapped(load_file(file)), file)
        elif file.suffix in (".pth", ".bin"):
            torch.save(_wrapped(torch.load(file)), file)
        elif file.suffix == ".pt":
            file.rename(out / f"{PREFIX}{file.name}")
        elif file.name.endswith(".index.json"):
            index = json.loads(file.read_text())
            file.write_text(json.dumps({**index, "weight_map": _wrapped(index["weight_map"])}))
    return out


def test_every_layout_whose_models_are_recognised_is_in_the_table() -> None:
    assert CELLS.keys() == {layout.id for layout in LAYOUTS} - {"gguf"}  # whose names are of no model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "strategy"), [(layout, strategy) for layout, (*_, many) in CELLS.items() for strategy in many]
)
def test_a_wrapped_models_checkpoint_is_loaded_into_the_bare_model(layout: str, strategy: str, tmp_path: Path) -> None:
    path = _write(layout, tmp_path / "checkpoint")
    task = task_for(read_checkpoint(path), LoadOptions())

    with tiny_twin(task) as tiny:
        run = run_worker(strategy, path, tiny, LoadOptions())

    assert (task.architecture.id, task.checkpoint.layout) == (CELLS[layout][0], layout)
    tensors = run.reports["tensors"]
    assert run.status == 0, run.log
    assert tensors["verified"] == tensors["expected"] == len(task.pieces)
    assert (tensors["mismatched"], tensors["unexpected"], tensors["missing"]) == (0, 0, 0)
    assert event_lines(run) == ledger_lines(run)
