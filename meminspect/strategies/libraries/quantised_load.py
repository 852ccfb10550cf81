"""What transformers does to quantise a model's linear layers while it loads (`core_model_loading.py`, one by one)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import quantisation, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = ["as_quantised", "floor_bytes", "ledger", "recipe", "why_not"]


def as_quantised(task: LoadTask, kind: str) -> LoadTask:
    """The task with the library's own kind of quantisation, whatever the options say."""
    task = hugging_face.as_loaded(task)
    return dataclasses.replace(task, options=dataclasses.replace(task.options, quantisation=kind))


def why_not(task: LoadTask, kind: str) -> str | None:
    """In one sentence why a checkpoint is not quantised this way; None when it is."""
    return hugging_face.why_not(task) or quantisation.why_not(as_quantised(task, kind))


def floor_bytes(task: LoadTask, kind: str) -> int:
    """Q."""
    return quantisation.floor_bytes(as_quantised(task, kind))


def recipe(task: LoadTask, imports: Sequence[str], config: str, *classes: str) -> str:
    """from_pretrained with a quantisation config."""
    return recipes.recipe(
        "\n".join([hugging_face.imports(task, *classes), *imports]),
        f"quantisation = {config}\n"
        f"model = {hugging_face.auto_class(task)}.from_pretrained(\n"
        f"    {hugging_face.folder(task)}, {hugging_face.dtype_argument(task)},\n"
        f"    device_map={task.options.device!r}, quantization_config=quantisation,\n)",
    )


def ledger(task: LoadTask, kind: str, passing: Sequence[int]) -> Iterator[Step]:
    """Weight by weight; no mapping goes, for what is not quantised is the file's pages.

    Args:
        task: what to load.
        kind: how it is quantised, as our own strategies name it.
        passing: bytes an element of what the library makes on the way and drops behind each weight, in order.
    """
    task = as_quantised(task, kind)
    layers, sources = quantisation.quantised(task), hugging_face.mapped_sources(task)
    yield from steps.read(task, sources)
    for parameter in task.loading_order:
        piece = task.pieces.get(parameter.name, (None,))[0]
        if piece is None:
            continue
        if parameter.name in layers:
            yield from sources.use("quantise", piece, Item.STAGING)
            yield from _quantised(task, parameter, passing)
        elif task.cast_dtype(piece.dtype) != piece.dtype or task.pool is Pool.VRAM:
            yield from sources.use("cast", piece, Item.STAGING)
            nbytes = bytes_of(task.cast_dtype(piece.dtype), piece.elements)
            yield Step("cast", Operation.MATERIALISE, task.pool, Item.FLOOR, parameter.name, nbytes)
    if task.pool is Pool.HEAP:
        for parameter in task.loading_order:
            piece = task.pieces.get(parameter.name, (None,))[0]
            if piece is not None and parameter.name not in layers and task.cast_dtype(piece.dtype) == piece.dtype:
                yield from sources.use("touch", piece, Item.FLOOR)


def _quantised(task: LoadTask, parameter: Parameter, passing: Sequence[int]) -> Iterator[Step]:
    made = [
        Step("quantise", Operation.MATERIALISE, task.pool, Item.STAGING, parameter.name, size * parameter.elements)
        for size in passing
    ]
    yield from made
    for nbytes in quantisation.sizes(task, parameter):
        yield Step("quantise", Operation.MATERIALISE, task.pool, Item.QUANTISED, parameter.name, nbytes)
    for step in made:
        yield step._replace(operation=Operation.RELEASE)
