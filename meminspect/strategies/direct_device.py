"""`direct-device`: the random model is built where it shall be."""

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
    return recipes.recipe(
        recipes.header(task),
        recipes.build(task, in_place=True),
        recipes.load_all(task, to_device=task.reads_to_device),
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build(task, in_place=True)
    yield from steps.load_all(task, to_device=task.reads_to_device)


STRATEGY = Strategy(
    id="direct-device",
    summary="builds the model with random weights on its device, then copies the whole state dict in",
    good="a device, and a host without room for the model",
    bad="holds a random model in full precision and the checkpoint at once; on the cpu it is naive",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    casts=False,
)
