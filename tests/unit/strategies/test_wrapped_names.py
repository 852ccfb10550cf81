"""Checkpoints of wrapped models: every name behind `module.` or `_orig_mod.`, which recipes leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.worker.models import build
from meminspect.worker.recipe import default_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from strategy_tasks import Tasks
    from torch import nn

    from meminspect.strategies import LoadTask

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

# What stands before the names, and strategies that load them.
LAYOUTS = {
    "safetensors": ("module.", {"stream", "mmap-assign", "lazy", "sharded", "lazy-quantize", "adapters"}),
    "pth": ("_orig_mod.module.", {"stream", "mmap-assign", "lazy", "sharded", "lazy-quantize", "adapters"}),
    "per-tensor": ("_fsdp_wrapped_module.", {"stream", "mmap-assign", "lazy", "per-tensor-files"}),
    "dcp": ("model.module.", {"meta-assign", "naive"}),
}


@pytest.fixture(scope="module")
def bare(tasks: Tasks) -> dict[str, torch.Tensor]:
    """A model's tensors under their own names."""
    (file,) = tasks("teaching").checkpoint.files
    return load_file(file.path)


def wrapped(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def written(layout: str, tensors: Mapping[str, torch.Tensor], folder: Path) -> Path:
    path = folder / f"net.{layout}"
    named = wrapped(tensors, LAYOUTS[layout][0])
    if layout == "per-tensor":
        path.mkdir()
        for name, tensor in named.items():
            torch.save(tensor, path / f"{name}.pt")
    elif layout == "dcp":
        model = {name.removeprefix("model."): tensor for name, tensor in named.items()}
        dcp.save({"model": model, "epoch": 1}, checkpoint_id=path, no_dist=True)
    elif layout == "pth":
        torch.save({"state_dict": {**named, "_orig_mod.version": 3}, "epoch": 1}, path)
    else:
        save_file(named, path)
    return path


def loaded(strategy: str, task: LoadTask) -> nn.Module:
    names: dict[str, Any] = {"Model": lambda _: build(task.architecture), "config": None, "split_dims": task.split_dims}
    with default_dtype("float32"):
        exec(NATIVE[strategy].recipe(task), names)  # noqa: S102 - the text under test
    model: nn.Module = names["model"]
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_recipe_loads_what_a_wrapper_has_saved(
    layout: str, bare: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    task = task_for(read_checkpoint(written(layout, bare, tmp_path)), LoadOptions())

    prefix, some = LAYOUTS[layout]
    assert task.architecture.id == "gpt2"
    assert task.note.startswith(f"every name begins with {prefix}, which is left out")
    ways = [id_ for id_, strategy in NATIVE.items() if strategy.why_not(task) is None]
    assert some <= {*ways}
    for id_ in ways:
        model, strategy = loaded(id_, task), NATIVE[id_]
        state = {name: tensor for name, tensor in model.state_dict().items() if strategy.changes or name in bare}
        assert strategy.changes or state.keys() == bare.keys(), id_
        assert torch.equal(state["tok_emb.weight"], bare["tok_emb.weight"].to(state["tok_emb.weight"].dtype)), id_


def test_the_theory_is_that_of_the_bare_model(bare: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(bare, tmp_path / "bare.safetensors")
    plain = task_for(read_checkpoint(tmp_path / "bare.safetensors"), LoadOptions())
    behind = task_for(read_checkpoint(written("safetensors", bare, tmp_path)), LoadOptions())

    for strategy in NATIVE.values():
        if strategy.why_not(plain) is None:
            assert strategy.theory(behind) == strategy.theory(plain), strategy.id


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("module.a.weight", "module.b"), "every name begins with module., which a wrapper puts there"),
        (("module.a.weight", "b"), ""),
        (("model.a.weight", "model.b"), ""),  # which most models have of themselves
        (("layers.0._orig_mod.weight", "norm"), "names have _orig_mod. within, which a wrapper of a part puts there"),
        (("a._checkpoint_wrapped_module.b",), "name.replace('_checkpoint_wrapped_module.', '') strips"),
        (("layers.0.module.weight", "x_orig_mod.weight"), ""),
        (("module._orig_mod.a", "module._orig_mod.b"), "name.removeprefix('module._orig_mod.') strips"),
    ],
)
def test_a_skeleton_keeps_its_names_and_is_told_of_what_wrappers_have_put_there(
    names: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    save_file({name: torch.ones(2) for name in names}, tmp_path / "net.safetensors")

    task = task_for(read_checkpoint(tmp_path / "net.safetensors"), LoadOptions())

    assert [*task.pieces] == sorted(names)
    assert task.architecture.id == "skeleton"
    assert ("wrapper" in task.note) == bool(told)
    assert told in task.note
    assert task.note.count("wrapper") <= 1
