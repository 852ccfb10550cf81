"""`naive`: what most tutorials show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.strategies import dcp_lines, own_readers, recipes, steps
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    if task.checkpoint.layout == own_readers.DCP:
        return recipes.recipe(dcp_lines.header(task), recipes.build(task), dcp_lines.fill_model(task))
    return recipes.recipe(
        recipes.header(task),
        recipes.build(task),
        recipes.read_all(task, recipes.read_one(task)),
        "model.load_state_dict(state_dict)\ndel state_dict",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    tensors = task.checkpoint.tensors
    sources = steps.Sources(Pool.FILE if recipes.always_maps(task) else Pool.HEAP, Item.DUPLICATE)
    yield from steps.build(task)
    if task.checkpoint.layout == own_readers.DCP:
        yield from dcp_lines.copy_chunks(task)
        return
    yield from steps.read(task, sources)
    if not task.checkpoint.parallel_files:
        yield from steps.copy(task, sources, tensors)
        for tensor in tensors:
            yield from sources.drop("copy", tensor)
        return
    yield from steps.join(task, sources, Item.DUPLICATE)
    yield from steps.copy(task, sources, task.tensors_by_file[0])
    for name, pieces in task.pieces.items():
        if task.split_dims[name] is None:
            yield from sources.drop("copy", pieces[0])
        else:
            whole = sum(piece.nbytes for piece in pieces)
            yield Step("copy", Operation.RELEASE, Pool.HEAP, Item.DUPLICATE, name, whole)


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
