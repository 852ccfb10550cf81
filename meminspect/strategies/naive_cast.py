"""`naive-cast`: what most tutorials show, with a cast at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    dtype = task.main_dtype
    return recipes.recipe(
        recipes.header(task),
        recipes.build(task),
        recipes.load_all(task, to_device=task.reads_to_device),
        "" if dtype == task.options.init_dtype else f"model = model.to(torch.{dtype})",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build(task)
    yield from steps.load_all(task, to_device=task.reads_to_device)
    yield from steps.cast(task, task.main_dtype)


STRATEGY = Strategy(
    id="naive-cast",
    summary="builds the model with random weights, copies the whole state dict in, and casts the model at last",
    good="a loaded model that is as small as it can be, in three lines",
    bad="peaks like naive: the cast saves memory only when the load is over",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
)
