"""Every recipe run as it is pasted, on a small model: the same tensors and the same logits, whatever the way."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from meminspect.strategies import NATIVE
from meminspect.worker.models import build
from meminspect.worker.recipe import default_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from strategy_tasks import Tasks
    from torch import nn

    from meminspect.strategies import LoadTask

MODELS = ("safetensors 3", "teaching")
MORE_MODELS = ("meta", "meta 2", "gpt2")
DTYPES: dict[str | None, float] = {None: 2e-2, "bfloat16": 8e-2}  # and how far logits may be off
WAYS = [id_ for id_, strategy in NATIVE.items() if id_ not in ("naive", "per-tensor-files") and not strategy.changes]
CELLS = [
    *itertools.product(WAYS, MODELS),
    *(pytest.param(*cell, marks=pytest.mark.slow) for cell in itertools.product(WAYS, MORE_MODELS)),
]


def loaded(strategy: str, task: LoadTask) -> nn.Module:
    names: dict[str, Any] = {
        "Model": lambda _: build(task.architecture), "config": None, "split_dims": task.split_dims,
    }  # fmt: skip
    with default_dtype("float32"):
        exec(NATIVE[strategy].recipe(task), names)  # noqa: S102 - the text under test
    model: nn.Module = names["model"]
    return model


@pytest.fixture(scope="module")
def plainly(tasks: Tasks) -> Callable[[str], nn.Module]:
    """The float32 model of the plainest way."""
    return functools.cache(lambda name: loaded("naive", tasks(name)))


@pytest.mark.parametrize(("strategy", "name"), CELLS)
def test_a_recipe_gives_every_tensor_its_value_and_the_model_its_answer_to_the_casts_error(
    strategy: str, name: str, tasks: Tasks, plainly: Callable[[str], nn.Module]
) -> None:
    expected, tokens = plainly(name), torch.arange(8).unsqueeze(0)
    with torch.inference_mode():
        answer = expected(tokens)
    for dtype, error in DTYPES.items():
        found = loaded(strategy, tasks(name, dtype=dtype))

        wanted = getattr(torch, dtype or "float16" if NATIVE[strategy].casts else "float32")
        tensors, plain = found.state_dict(), expected.state_dict()
        assert tensors.keys() == plain.keys()
        for key, tensor in tensors.items():
            assert tensor.dtype is wanted
            assert torch.equal(tensor, plain[key].to(wanted)), key
        with torch.inference_mode():
            logits = found(tokens).float()
        assert torch.isfinite(logits).all()
        assert (logits - answer).abs().max() <= error * answer.abs().max()
