"""`per-tensor-files`: a file for each tensor, read and copied one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Pool
from meminspect.strategies import recipes, steps
from meminspect.strategies.sources import Sources
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _built(task: LoadTask) -> LoadTask:
    return task.built_in(task.main_dtype).untied()


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task),
        recipes.empty_build(_built(task)),
        f"""
parameters = model.state_dict()
for file in files:
    parameters[{recipes.bare(task, "file.stem")}].copy_({recipes.torch_load(task)})
del parameters
""",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    built = _built(task)
    yield from steps.reserve(built)
    for tensor in task.checkpoint.tensors:
        source = Sources(Pool.HEAP, Item.STAGING)
        yield from source.read([tensor])
        yield from steps.copied(built, built.parameters[tensor.name], tensor.dtype, source.pool, untouched=True)
        yield from source.drop("copy", tensor)


def _lacks(task: LoadTask) -> str | None:
    if task.checkpoint.layout == "per-tensor":
        return None
    return "it takes a checkpoint with a file for each tensor: write one with torch.save(tensor, f'{name}.pt')"


STRATEGY = Strategy(
    id="per-tensor-files",
    summary="gives the model memory without values, then reads and copies one file for each tensor",
    good="little memory beside the model, on the host and on a device",
    bad="needs a checkpoint that has been taken apart; thousands of small files; unties tied weights",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: False,
    built_dtype=lambda task: task.main_dtype,
    lacks=_lacks,
)
