"""`naive`: what most tutorials show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import dcp_lines, own_readers, recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    if task.checkpoint.layout == own_readers.DCP:
        return recipes.recipe(dcp_lines.header(task), recipes.build(task), dcp_lines.fill_model(task))
    return recipes.recipe(
        recipes.header(task), recipes.build(task), recipes.load_all(task, to_device=task.reads_to_device)
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build(task)
    if task.checkpoint.layout == own_readers.DCP:
        yield from dcp_lines.copy_chunks(task)
        return
    yield from steps.load_all(task, to_device=task.reads_to_device)


STRATEGY = Strategy(
    id="naive",
    summary="builds the model with random weights, reads the whole state dict, copies it in",
    good="small models, and as the yardstick",
    bad="holds a random model and the checkpoint at once: 3 × a float16 checkpoint",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    casts=False,
    own_readers=frozenset({own_readers.DCP, own_readers.GGUF}),
)
