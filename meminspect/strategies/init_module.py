"""`init-module`: the random model is built where it shall be, in the dtype that it shall have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _built(task: LoadTask) -> LoadTask:
    return task.built_in(task.main_dtype)


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task),
        recipes.build(_built(task), in_place=True),
        recipes.load_all(task, to_device=False),
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    built = _built(task)
    yield from steps.build(built, in_place=True)
    yield from steps.load_all(built, to_device=False)


STRATEGY = Strategy(
    id="init-module",
    summary="builds the model with random weights on its device in its final dtype, then copies the state dict in",
    good="models that must be initialised by their own code; nothing is in full precision that need not be",
    bad="makes random numbers for nothing, and holds the whole checkpoint on the host meanwhile",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    built_dtype=lambda task: task.main_dtype,
)
