from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.adapters import RANK
from meminspect.strategies.task import LoadTask, task_for
from meminspect.worker import models
from meminspect.worker.recipe import execute, prepare
from meminspect.worker.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

META: dict[str, object] = {
    "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 100, "multiple_of": 32, "norm_eps": 1e-5,
}  # fmt: skip
HF: dict[str, object] = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 100}
PROJECTIONS = {"llama": 4, "gpt2": 2}


@pytest.fixture(params=["llama", "gpt2"])
def task(request: pytest.FixtureRequest, tmp_path: Path) -> LoadTask:
    """A pickle whose head is its embedding's memory."""
    naming, config = ("meta", META) if request.param == "llama" else ("hf", HF)
    model = models.build(ARCHITECTURES[request.param].architecture(config, naming))
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    head, embedding = (
        ("output.weight", "tok_embeddings.weight")
        if request.param == "llama"
        else ("lm_head.weight", "transformer.wte.weight")
    )
    tensors[head] = tensors[embedding]
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    (tmp_path / ("params.json" if request.param == "llama" else "config.json")).write_text(_json(config, request.param))
    return task_for(read_checkpoint(tmp_path), LoadOptions())


def _json(config: dict[str, object], family: str) -> str:
    return json.dumps({**config, **({"model_type": "gpt2"} if family == "gpt2" else {})})


def loaded(strategy: str, task: LoadTask) -> nn.Module:
    recipe = prepare(STRATEGIES[strategy], task)
    return execute(recipe, recipe.build)


def test_what_the_checkpoint_lacks_begins_as_its_module_makes_it_and_changes_nothing(task: LoadTask) -> None:
    model = loaded("adapters", task)
    family = task.architecture.id

    added = {name: tensor for name, tensor in model.named_parameters() if ".lora." in name}
    assert {name: tuple(tensor.shape) for name, tensor in added.items()} == {
        parameter.name: parameter.shape for parameter in STRATEGIES["adapters"].adds(task)
    }
    assert len(added) == 2 * 2 * PROJECTIONS[family]
    for name, tensor in added.items():
        assert tensor.requires_grad
        assert tensor.dtype is torch.float32
        assert tensor.any() == name.endswith(".A")
        assert RANK in tensor.shape
    tokens = torch.arange(9).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(model(tokens), loaded("lazy", task)(tokens))


def test_an_update_that_has_been_trained_changes_the_logits(task: LoadTask) -> None:
    model, tokens = loaded("adapters", task), torch.arange(9).unsqueeze(0)
    with torch.inference_mode():
        before = model(tokens)
        for name, tensor in model.named_parameters():
            if name.endswith("lora.B"):
                tensor.fill_(0.1)
        after = model(tokens)
    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("strategy", ["adapters", "lazy-quantize"])
def test_tied_weights_stay_tied(strategy: str, task: LoadTask) -> None:
    model = loaded(strategy, task)
    names = {"llama": ("output", "tok_embeddings"), "gpt2": ("lm_head", "transformer.wte")}[task.architecture.id]
    head, embedding = (model.get_submodule(name).get_parameter("weight") for name in names)
    assert head is embedding


def test_the_base_is_the_checkpoints_and_what_is_added_is_not_missing(task: LoadTask) -> None:
    found = verify(loaded("adapters", task), task, STRATEGIES["adapters"])
    assert found["verified"] == found["expected"] == len(task.pieces)
    assert (found["mismatched"], found["missing"], found["unexpected"]) == (0, 0, 0)


def test_what_nobody_fills_is_an_error_with_its_name(task: LoadTask) -> None:
    text = STRATEGIES["adapters"].recipe(task).replace("def reset_parameters", "def start_over")
    text = text.replace("self.reset_parameters()", "")
    recipe = prepare(replace(STRATEGIES["adapters"], recipe=lambda _: text), task)
    with pytest.raises(RuntimeError, match=r"left on the meta device: \S+\.lora\.A, "):
        execute(recipe, recipe.build)
