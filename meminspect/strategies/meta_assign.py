"""`meta-assign`: the state dict becomes the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Pool
from meminspect.strategies import dcp_lines, own_readers, recipes, steps
from meminspect.strategies.sources import Sources
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    if task.checkpoint.layout == own_readers.DCP:
        return recipes.recipe(
            dcp_lines.header(task), recipes.meta_build(task), dcp_lines.fill(task), dcp_lines.assign(task)
        )
    return recipes.recipe(
        recipes.header(task),
        recipes.meta_build(task),
        recipes.read_all(task, recipes.read_one(task, owned=True)),
        recipes.convert(task),
        "model.load_state_dict(state_dict, assign=True)\ndel state_dict",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build_unsaved(task)
    if task.checkpoint.layout == own_readers.DCP:
        yield from dcp_lines.fill_chunks(task)
        yield from steps.assign(task)
        return
    sources = Sources(Pool.HEAP, Item.STAGING if steps.remakes(task) else Item.FLOOR)
    yield from steps.read(task, sources)
    yield from steps.into_final_form(task, sources)
    yield from steps.assign(task)


STRATEGY = Strategy(
    id="meta-assign",
    summary="builds the model without memory, reads the state dict and makes it the model's parameters",
    good="one checkpoint of memory, in a few lines; weights that will be changed",
    bad="reads everything before it returns",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: False,
    own_readers=frozenset({own_readers.DCP}),
)
