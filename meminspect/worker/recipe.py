"""Executes a recipe's text as it stands, where `Model`, `config` and `split_dims` mean this checkpoint."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from meminspect.strategies import packages
from meminspect.worker import models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

    from torch import nn

    from meminspect.strategies import LoadTask, Strategy

__all__ = ["Recipe", "default_dtype", "execute", "prepare"]


@dataclass(frozen=True)
class Recipe:
    """A compiled recipe, the names it is given, and what builds its model."""

    code: CodeType
    names: dict[str, Any]
    build: Callable[[], nn.Module]


def prepare(strategy: Strategy, task: LoadTask) -> Recipe:
    """Compile a strategy's recipe for a task."""
    names = {"config": task.architecture.config, "split_dims": task.split_dims}
    own, config = task.options.model, task.architecture.config
    if packages.TRANSFORMERS in strategy.packages:
        build = functools.partial(models.hugging_face.build, task)
    elif own is None:
        build = functools.partial(models.build, task.architecture)
    else:
        build = functools.partial(models.own.build, own, config)
    return Recipe(compile(strategy.recipe(task), "<recipe>", "exec"), names, build)


def execute(recipe: Recipe, build: Callable[[], nn.Module]) -> nn.Module:
    """Run the recipe and return its `model`; its other names are dropped.

    Args:
        recipe: what to run.
        build: what `Model(config)` does.
    """
    names = {"__name__": "__recipe__", "Model": lambda _: build(), **recipe.names}
    exec(recipe.code, names)  # noqa: S102 - our own text, shown to the user
    model: nn.Module = names["model"]
    return model


@contextlib.contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Build models in a dtype while the context lasts; a recipe may change it meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
