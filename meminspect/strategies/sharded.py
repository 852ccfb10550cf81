"""`sharded`: one file at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import own_readers, recipes, steps
from meminspect.strategies.sources import sources_for
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    expression = recipes.read_one(task)
    if not task.checkpoint.parallel_files:
        load = f"""
for file in files:
    state_dict = {expression}
    model.load_state_dict(state_dict, strict=False)  # a shard holds some of the tensors
    del state_dict  # before the next shard is read
"""
    else:
        load = f"""
parameters = model.state_dict()
for rank, file in enumerate(files):
    shard = {expression}
    for name, piece in shard.items():
        target, dim = parameters[name], split_dims[name]
        if dim is not None:
            target = target.narrow(dim, rank * piece.shape[dim], piece.shape[dim])
        target.copy_(piece)
    del shard, piece  # before the next shard is read
del parameters, target
"""
    return recipes.recipe(recipes.header(task), recipes.build(task), load)


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build(task)
    for file, tensors in enumerate(task.tensors_by_file):
        sources = sources_for(task, Item.SHARD)
        yield from steps.read(task, sources, [file])
        if task.checkpoint.parallel_files:
            for tensor in tensors:
                yield from steps.copied_slice(task, tensor)
        else:
            yield from steps.copy(task, sources, tensors)
        for tensor in tensors:
            yield from sources.drop("copy", tensor)


STRATEGY = Strategy(
    id="sharded",
    summary="builds the model with random weights, then reads, copies in and drops one file at a time",
    good="checkpoints in many files, with code that expects a built model",
    bad="the random model is in full precision; with a single file it is naive",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    casts=False,
    own_readers=frozenset({own_readers.GGUF}),
)
