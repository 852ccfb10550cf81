"""`hf-device-map`: from_pretrained, which places the model where it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.strategies.libraries.hf_pretrained import from_pretrained
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        hugging_face.imports(task),
        f"model = {hugging_face.auto_class(task)}.from_pretrained(\n"
        f"    {hugging_face.folder(task)}, {hugging_face.dtype_argument(task)}, device_map={task.options.device!r}\n)",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    task = hugging_face.as_loaded(task)
    if task.pool is Pool.HEAP:
        yield from from_pretrained(task)
        return
    sources = hugging_face.mapped_sources(task)
    yield from steps.read(task, sources)
    for parameter in task.loading_order:
        for piece in task.pieces.get(parameter.name, ())[:1]:
            yield from sources.use("move", piece)
            nbytes = bytes_of(task.cast_dtype(piece.dtype), piece.elements)
            yield Step("move", Operation.MATERIALISE, task.pool, Item.FLOOR, parameter.name, nbytes)
    for tensor in task.checkpoint.tensors:
        yield from sources.drop("move", tensor)


STRATEGY = Strategy(
    id="hf-device-map",
    summary="from_pretrained with a device_map: each tensor goes from its mapped file to its device",
    good="a GPU's model without a copy on the host",
    bad="the files' pages stay mapped to the end; needs accelerate",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    lacks=hugging_face.why_not,
    unpickles=False,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE),
)
