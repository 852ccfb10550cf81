"""`lazy`: each tensor is read when its turn comes, and made once in its final form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import materialising, recipes
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task, lazily=True),
        recipes.meta_build(task),
        materialising.put(task),
        materialising.read_one_by_one(task),
        materialising.lacking(task),
    )


STRATEGY = Strategy(
    id="lazy",
    summary="builds the model without memory, then reads, casts and assigns tensor by tensor",
    good="memory of one's own for the model alone, cast or not; what the checkpoint lacks is initialised",
    bad="the pages of a file stay mapped until it is closed: a checkpoint in one file is there twice at the end",
    recipe=_recipe,
    ledger=materialising.one_by_one,
    maps=lambda _: True,
)
