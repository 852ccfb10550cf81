"""What transformers does to quantise a model's linear layers while it loads (`core_model_loading.py`, one by one)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, quantisation, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.packages import Package
    from meminspect.strategies.task import LoadTask

__all__ = ["Quantiser", "strategy"]


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """How a library quantises one weight.

    Args:
        package: the library.
        kind: what it makes, as our own strategies name it.
        imports: the line of a recipe that its config needs beside transformers', if any.
        transformers_class: transformers' class for its config.
        config: the expression of the config.
        dropped: bytes an element of what it makes and drops before the values are there.
        kept: bytes an element of what lives until they are.
        kept_on_device: the same on a device that it has kernels of its own for, where nothing else is made; None: where
            it has none.
        by_host: from a device it takes the weight back to the host first.
    """

    package: Package
    kind: str
    transformers_class: str
    config: str
    dropped: Sequence[float]
    kept: Sequence[float]
    imports: str = ""
    kept_on_device: Sequence[float] | None = None
    by_host: bool = False


def strategy(id: str, quantiser: Quantiser, *, summary: str, good: str, bad: str) -> Strategy:  # noqa: A002 - its own word
    """The strategy that loads through `from_pretrained` with a quantiser."""

    def as_quantised(task: LoadTask) -> LoadTask:
        """The task with the library's own kind of quantisation, whatever the options say."""
        task = hugging_face.as_loaded(task)
        return dataclasses.replace(task, options=dataclasses.replace(task.options, quantisation=quantiser.kind))

    return Strategy(
        id=id,
        summary=summary,
        good=good,
        bad=bad,
        recipe=lambda task: _recipe(task, quantiser),
        ledger=lambda task: _ledger(as_quantised(task), quantiser),
        maps=lambda _: True,
        built_dtype=hugging_face.built_dtype,
        own_floor_bytes=lambda task: quantisation.floor_bytes(as_quantised(task)),
        lacks=lambda task: hugging_face.why_not(task) or quantisation.why_not(as_quantised(task)),
        unpickles=False,
        packages=(packages.TRANSFORMERS, packages.ACCELERATE, quantiser.package),
    )


def _recipe(task: LoadTask, quantiser: Quantiser) -> str:
    return recipes.recipe(
        f"{hugging_face.imports(task, quantiser.transformers_class)}\n{quantiser.imports}",
        f"quantisation = {quantiser.config}\n"
        f"model = {hugging_face.auto_class(task)}.from_pretrained(\n"
        f"    {hugging_face.folder(task)}, {hugging_face.dtype_argument(task)},\n"
        f"    device_map={task.options.device!r}, quantization_config=quantisation,\n)",
    )


def _ledger(task: LoadTask, quantiser: Quantiser) -> Iterator[Step]:
    """Weight by weight; no mapping goes, for what is not quantised is the file's pages."""
    layers, sources = quantisation.quantised(task), hugging_face.mapped_sources(task)
    yield from hugging_face.allocator_warmup(task, _warmup_bytes(task))
    yield from steps.read(task, sources)
    for tensor in hugging_face.by_name(task):
        remade = task.cast_dtype(tensor.dtype) != tensor.dtype or task.pool is Pool.VRAM
        nbytes = bytes_of(task.cast_dtype(tensor.dtype), tensor.elements)
        made = Step("cast", Operation.MATERIALISE, task.pool, Item.FLOOR, tensor.name, nbytes)
        if remade or tensor.name in layers:
            yield from sources.use("cast" if remade else "quantise", tensor, Item.STAGING)
        if tensor.name not in layers:
            yield from (made,) if remade else ()
            continue
        whole = made._replace(item=Item.STAGING)
        yield from (whole,) if remade else ()
        yield from _quantised(task, layers[tensor.name], quantiser)
        yield from (whole.given_back("quantise"),) if remade else ()
    if task.pool is Pool.VRAM:
        return
    for parameter in task.loading_order:
        for piece in task.pieces.get(parameter.name, ())[:1]:
            if parameter.name not in layers and task.cast_dtype(piece.dtype) == piece.dtype:
                yield from sources.use("touch", piece, Item.FLOOR)


def _warmup_bytes(task: LoadTask) -> int:
    """What the model is estimated at beforehand (`param_element_size`): values without their scales."""
    layers = quantisation.quantised(task).values()
    whole_bytes = task.target_bytes([parameter.name for parameter in layers])
    return task.floor_bytes - whole_bytes + sum(quantisation.sizes(task, parameter)[0] for parameter in layers)


def _quantised(task: LoadTask, parameter: Parameter, quantiser: Quantiser) -> Iterator[Step]:
    def made(item: str, nbytes: float) -> Step:
        return Step("quantise", Operation.MATERIALISE, task.pool, item, parameter.name, int(nbytes))

    made_bytes = quantiser.dropped, quantiser.kept
    if task.pool is Pool.VRAM and quantiser.kept_on_device is not None:
        made_bytes = (), quantiser.kept_on_device
    dropped, kept = ([made(Item.STAGING, size * parameter.elements) for size in sizes] for sizes in made_bytes)
    if task.pool is Pool.VRAM and quantiser.by_host:
        nbytes = bytes_of(task.target_dtype(parameter), parameter.elements)
        kept.insert(0, made(Item.STAGING, nbytes)._replace(pool=Pool.HEAP))
    yield from (*dropped, *kept)
    for step in dropped:
        yield step._replace(operation=Operation.RELEASE)
    for nbytes in quantisation.sizes(task, parameter):
        yield made(Item.QUANTISED, nbytes)
    for step in kept:
        yield step._replace(operation=Operation.RELEASE)
