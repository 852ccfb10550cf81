"""`hf-pretrained`: the one line that most people load a model with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY", "from_pretrained"]


def _recipe(task: LoadTask) -> str:
    device = task.options.device
    moved = "" if device == "cpu" else f"model = model.to({device!r})"
    return recipes.recipe(
        hugging_face.imports(task),
        f"model = {hugging_face.auto_class(task)}.from_pretrained(\n"
        f"    {hugging_face.folder(task)}, {hugging_face.dtype_argument(task)}\n)\n{moved}",
    )


def from_pretrained(task: LoadTask) -> Iterator[Step]:
    """What transformers 5 does to load to the host (`core_model_loading.py`): every file stays mapped to the end.

    A tensor that is cast is made anew; all others are the file's pages.
    """
    sources = hugging_face.mapped_sources(task)
    yield from steps.read(task, sources)
    for parameter in task.loading_order:
        for piece in task.pieces.get(parameter.name, ())[:1]:
            if task.cast_dtype(piece.dtype) != piece.dtype:
                yield from sources.use("cast", piece)
                nbytes = bytes_of(task.cast_dtype(piece.dtype), piece.elements)
                yield Step("cast", Operation.MATERIALISE, Pool.HEAP, Item.FLOOR, parameter.name, nbytes)
    if task.casts:
        for tensor in task.checkpoint.tensors:
            yield from sources.drop("cast", tensor)
    else:
        yield from steps.touch(task, sources)


def _ledger(task: LoadTask) -> Iterator[Step]:
    task = hugging_face.as_loaded(task)
    if task.pool is Pool.HEAP:
        yield from from_pretrained(task)
        return
    yield from _moved(task)


def _moved(task: LoadTask) -> Iterator[Step]:
    """To the host first, then parameter by parameter to the device; a file goes with the last one that it became."""
    sources, cast = hugging_face.mapped_sources(task), dict[str, Step]()
    yield from steps.read(task, sources)
    for tensor in hugging_face.by_name(task):
        dtype = task.cast_dtype(tensor.dtype)
        if dtype != tensor.dtype:
            yield from sources.use("cast", tensor)
            nbytes = bytes_of(dtype, tensor.elements)
            cast[tensor.name] = Step("cast", Operation.MATERIALISE, Pool.HEAP, Item.STAGING, tensor.name, nbytes)
            yield cast[tensor.name]
    for tensor in task.checkpoint.tensors:
        if tensor.name in cast or tensor.name not in task.parameters:
            yield from sources.drop("cast", tensor)
    for parameter in task.conversion_order:
        pieces = task.pieces.get(parameter.name, ())[:1]
        for piece in () if parameter.name in cast else pieces:
            yield from sources.use("move", piece)
        if parameter.tied_to is None:
            nbytes = bytes_of(task.target_dtype(parameter), parameter.elements)
            yield Step("move", Operation.MATERIALISE, task.pool, Item.FLOOR, parameter.name, nbytes)
        if parameter.name in cast:
            yield cast[parameter.name].given_back("move")
        else:
            for piece in pieces:
                yield from sources.drop("move", piece)


STRATEGY = Strategy(
    id="hf-pretrained",
    summary="transformers' from_pretrained: every file is mapped, and becomes the model where nothing is cast",
    good="any model of the hub in one line; without a cast as light as mmap-assign",
    bad="a cast keeps every mapping to the end: both dtypes at once; without one, the first pass reads the disk",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    lacks=hugging_face.why_not,
    unpickles=False,
    packages=(packages.TRANSFORMERS,),
)
