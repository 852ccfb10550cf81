"""`mmap-assign`: the file's pages become the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Pool
from meminspect.strategies import own_readers, recipes, steps
from meminspect.strategies.sources import Sources
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    by = task.options.read_ahead if task.pool is Pool.HEAP else None  # nothing of a model on a device stays mapped
    return recipes.recipe(
        recipes.header(task, *(() if by is None else ("from meminspect.stream import read_ahead",))),
        recipes.meta_build(task),
        recipes.read_all(task, recipes.read_one(task, mapped=True)),
        recipes.convert(task),
        "model.load_state_dict(state_dict, assign=True)\ndel state_dict",
        "" if by is None else f"read_ahead(model, {by!r})",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build_unsaved(task)
    sources = Sources(Pool.FILE, Item.STAGING if steps.remakes(task) else Item.FLOOR)
    yield from steps.read(task, sources)
    yield from steps.into_final_form(task, sources)
    yield from steps.assign(task)
    yield from steps.touch(task, sources)


STRATEGY = Strategy(
    id="mmap-assign",
    summary="maps the file and hands its pages to the model; nothing is copied until it is touched",
    good="returns at once; the pages are shared between processes and can be reclaimed",
    bad="every first touch reads from disk, and again after reclaim; a cast gives the advantage away",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    own_readers=frozenset({own_readers.GGUF}),
)
