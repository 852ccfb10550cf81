from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import read_checkpoint
from meminspect.nf4 import NF4_CODES
from meminspect.strategies import QUANTISATIONS, STRATEGIES, LoadOptions
from meminspect.strategies.quantisation import CLASSES
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import SynthesisSpec, synthesise
from meminspect.worker.quantised import ERROR_BOUNDS, QuantisedView
from meminspect.worker.recipe import execute, prepare
from meminspect.worker.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

META: dict[str, object] = {
    "dim": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 100, "multiple_of": 32, "norm_eps": 1e-5,
}  # fmt: skip
HF: dict[str, object] = {
    "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
TEACHING: dict[str, object] = {
    "emb_dim": 64, "n_heads": 4, "n_layers": 2, "context_length": 32, "vocab_size": 100, "qkv_bias": True,
}  # fmt: skip
# name → architecture, naming, its config, layout, files. Rows of 96 are no whole number of nf4's blocks.
CHECKPOINTS: dict[str, tuple[str, str, dict[str, object], str, int]] = {
    "meta": ("llama", "meta", META, "meta", 1),
    "slices": ("llama", "meta", META, "meta", 2),
    "gpt2": ("gpt2", "hf", HF, "safetensors", 2),
    "teaching": ("gpt2", "teaching", TEACHING, "safetensors", 1),
}
STRATEGY_IDS = [strategy.id for strategy in STRATEGIES.values() if strategy.quantises]
PATIENT = "lazy-quantize"  # the one that takes every checkpoint
WHOLE_ROWS = ("meta", "teaching")  # the checkpoints that stream-quantize takes
# Of the logits' norm, two layers deep: a weight's error is some 1 % of its size in int8 and some 10 % in nf4.
LOGIT_ERRORS = {"int8": 0.03, "nf4": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


def task_of(name: str, folder: Path, quantisation: str) -> LoadTask:
    out = folder / name
    if not out.exists():
        family, naming, config, layout, files = CHECKPOINTS[name]
        architecture = ARCHITECTURES[family].architecture(config, naming)
        synthesise(SynthesisSpec(out, architecture, layout, "float16", files))
    return task_for(read_checkpoint(out), LoadOptions(dtype="float32", quantisation=quantisation))


def loaded(strategy: str, task: LoadTask) -> nn.Module:
    recipe = prepare(STRATEGIES[strategy], task)
    return execute(recipe, recipe.build)


def quantised_names(task: LoadTask) -> list[str]:
    return [one.name for one in task.architecture.parameters if one.linear not in ("", "head")]


@pytest.fixture(params=QUANTISATIONS)
def quantisation(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.parametrize("strategy", STRATEGY_IDS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tensor_is_the_checkpoints_to_within_the_quantisations_error(
    strategy: str, name: str, quantisation: str, folder: Path
) -> None:
    task = task_of(name, folder, quantisation)
    if strategy == "stream-quantize" and name not in WHOLE_ROWS:
        assert "lazy-quantize" in (STRATEGIES[strategy].why_not(task) or "")
        return

    found = verify(loaded(strategy, task), task, STRATEGIES[strategy])

    expected = len(task.pieces)
    assert found == {
        "expected": expected, "verified": expected, "mismatched": 0, "missing": 0, "unexpected": 0,
        "names": {"mismatched": [], "missing": [], "unexpected": []},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["meta", "gpt2", "teaching"])
def test_the_logits_are_the_float_models_to_within_the_quantisations_error(
    name: str, quantisation: str, folder: Path
) -> None:
    task = task_of(name, folder, quantisation)
    tokens = torch.arange(12).unsqueeze(0)
    with torch.inference_mode():
        expected = loaded("naive", task)(tokens)
        logits = {
            strategy: loaded(strategy, task)(tokens)
            for strategy in STRATEGY_IDS
            if strategy != "stream-quantize" or name in WHOLE_ROWS
        }

    for found in logits.values():
        assert torch.isfinite(found).all()
        assert torch.equal(found, logits[PATIENT])
        error = float((found - expected).norm() / expected.norm())
        assert LOGIT_ERRORS[quantisation] / 100 < error < LOGIT_ERRORS[quantisation]


def test_a_layer_errs_by_no_more_than_its_weights_bounds_add_up_to(quantisation: str, folder: Path) -> None:
    task = task_of("meta", folder, quantisation)
    model, original = loaded(PATIENT, task), loaded("naive", task)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    name = "layers.1.attention.wo"
    weight = original.get_submodule(name).get_parameter("weight").detach()

    error = model.get_submodule(name)(x) - nn.functional.linear(x, weight)

    group = (weight.view(-1, 64) if quantisation == "nf4" else weight).abs().amax(1, keepdim=True)
    group = group.expand(-1, weight.numel() // len(group)).reshape(weight.shape)
    bound = nn.functional.linear(x.abs(), ERROR_BOUNDS[quantisation] * group)
    assert (error.abs() <= bound * 1.001).all()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_value_that_is_off_by_one_step_is_found(name: str, quantisation: str, folder: Path) -> None:
    task = task_of(name, folder, quantisation)
    model = loaded(PATIENT, task)
    wrong = quantised_names(task)[-1]
    values = model.get_submodule(wrong.rpartition(".")[0]).get_buffer("weight").view(-1)
    small = values[-1] if quantisation == "int8" else values[-1] & 15
    values[-1] += -2 if small > 7 else 2  # by two: a value between two steps may as well be the other one's

    found = verify(model, task, STRATEGIES[PATIENT])

    assert found["names"] == {"mismatched": [wrong], "missing": [], "unexpected": []}


def test_a_scale_that_is_larger_than_need_be_is_found(quantisation: str, folder: Path) -> None:
    task = task_of("meta", folder, quantisation)
    model = loaded(PATIENT, task)
    layer: Any = model.get_submodule("layers.0.feed_forward.w2")
    original = loaded("naive", task).get_parameter("layers.0.feed_forward.w2.weight").detach()
    layer.scale.mul_(2)
    if quantisation == "int8":
        layer.weight.copy_((original / layer.scale).round())
    else:
        codes = (original.view(-1, 64, 1) / layer.scale.unsqueeze(-1) - torch.tensor(NF4_CODES)).abs().argmin(-1)
        layer.weight.copy_(codes[:, ::2] * 16 + codes[:, 1::2])
    # though each value is as near as its scale allows
    wide = QuantisedView.whole(layer.weight, layer.scale, parameter_of(task, "layers.0.feed_forward.w2.weight"))
    assert wide.matches(original)

    found = verify(model, task, STRATEGIES[PATIENT])

    assert found["mismatched"] == 1


def parameter_of(task: LoadTask, name: str) -> Any:
    return next(one for one in task.architecture.parameters if one.name == name)


def test_rows_and_blocks_of_zeros_stay_zeros(quantisation: str, folder: Path) -> None:
    task = task_of("meta", folder, quantisation)
    layer: Any = loaded(PATIENT, task).get_submodule("layers.0.attention.wq")
    zeros = torch.zeros(96, 96)
    layer.quantise(zeros)
    view = QuantisedView.whole(layer.weight, layer.scale, parameter_of(task, "layers.0.attention.wq.weight"))
    assert view.is_sound()
    assert view.matches(zeros)
    assert not layer(torch.ones(1, 96)).any()


def test_a_part_of_a_view_is_that_part_in_the_orientation_of_the_file(quantisation: str) -> None:
    for shape, transposed in (((128, 192), False), ((192, 128), True), ((96, 40), False)):
        weights = ARCHITECTURES["gpt2"].architecture(HF, "hf").parameters[4]
        parameter = weights._replace(shape=shape, transposed=transposed)
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        layer = layer_of(quantisation, weight.T if transposed else weight)
        view = QuantisedView.whole(layer.weight, layer.scale, parameter)
        part = view.narrow(0, 17, 50).narrow(1, 5, 30).narrow(0, 3, 40)
        assert part.matches(weight[20:60, 5:35])
        assert not part.matches(weight[21:61, 5:35])


def layer_of(quantisation: str, weight: torch.Tensor) -> Any:
    """A quantised layer as the recipe's class makes it."""
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    text = CLASSES[quantisation].replace("WEIGHT", "linear.weight").replace("DEVICE", "'cpu'")
    exec(text, names)  # noqa: S102 - our own text
    layer = names["QuantisedLinear"](nn.Linear(weight.shape[1], weight.shape[0], device="meta"))
    layer.quantise(weight)
    return layer
