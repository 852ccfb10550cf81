"""Tensors that accelerate's hooks bring from disk: found without being read, and verified as a pass would read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import tiny_checkpoint
from meminspect.worker import models
from meminspect.worker.offloaded import offloaded
from meminspect.worker.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


class OnDisk(Mapping[str, torch.Tensor]):
    """As accelerate's `PrefixedDataset`: asked for a module's name it reads, and its keys are the whole names."""

    def __init__(self, prefix: str, values: dict[str, torch.Tensor]) -> None:
        self.read: list[str] = []
        self._prefix, self._values = prefix, values

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.append(name)
        return self._values[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@pytest.fixture
def task(tmp_path: Path) -> LoadTask:
    path = tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path / "tiny")
    return task_for(read_checkpoint(path), LoadOptions())


@pytest.fixture
def model(task: LoadTask) -> nn.Module:
    from safetensors.torch import load_file

    with torch.device("meta"):
        model = models.build(task.architecture)
    model.load_state_dict(load_file(task.checkpoint.files[0].path), assign=True)
    return model


def leave_on_disk(model: nn.Module, path: str, *, sequential: bool = False) -> OnDisk:
    module = model.get_submodule(path)
    on_disk = OnDisk(f"{path}.", {f"{path}.weight": module.weight.detach().clone()})
    hook = SimpleNamespace(weights_map=on_disk)
    module._hf_hook = SimpleNamespace(hooks=[SimpleNamespace(), hook]) if sequential else hook
    module.weight = nn.Parameter(module.weight.to("meta"))
    return on_disk


@pytest.mark.parametrize("sequential", [False, True])
def test_what_a_hook_has_on_disk_is_found_and_not_read(model: nn.Module, *, sequential: bool) -> None:
    on_disk = leave_on_disk(model, "model.norm", sequential=sequential)
    model.get_submodule("lm_head").to("meta")  # which nobody brings back

    assert offloaded(model).keys() == {"model.norm.weight"}
    assert not on_disk.read


def test_what_is_on_disk_is_held_against_the_checkpoint(task: LoadTask, model: nn.Module) -> None:
    right = leave_on_disk(model, "model.norm")
    assert verify(model, task)["verified"] == len(task.pieces)
    assert right.read == ["weight"]

    leave_on_disk(model, "lm_head")._values["lm_head.weight"][0, 0] += 1
    assert verify(model, task)["names"] == {"mismatched": ["lm_head.weight"], "missing": [], "unexpected": []}
