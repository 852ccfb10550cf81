"""`hf-device-map`: from_pretrained, which places the model where it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face, offloading
from meminspect.strategies.libraries.hf_pretrained import from_pretrained
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]

_THREADS: Final = 4  # core_model_loading.py: GLOBAL_WORKERS at most, each of which brings a tensor to its device


def _recipe(task: LoadTask) -> str:
    start = f"    {hugging_face.folder(task)}, {hugging_face.dtype_argument(task)}, "
    if task.options.max_memory_bytes is None:
        imported, arguments = "", f"{start}device_map={task.options.device!r}\n"
    else:
        imported, arguments = offloading.IMPORT, start + offloading.max_memory(task)
    return recipes.recipe(
        f"{imported}{hugging_face.imports(task)}",
        f"model = {hugging_face.auto_class(task)}.from_pretrained(\n{arguments})",
    )


def _left(task: LoadTask) -> frozenset[str]:
    task = hugging_face.as_loaded(task)
    return offloading.left_on_disk(task, lambda one: bytes_of(task.target_dtype(one), one.elements))


def _resaves(task: LoadTask) -> bool:
    """Whether what is left on disk is written anew: only safetensors are read from where they are."""
    return not recipes.is_safetensors(task)


def _ledger(task: LoadTask) -> Iterator[Step]:
    task = hugging_face.as_loaded(task)
    left = _left(task)
    if left:
        yield from _offloading(task, left)
        return
    if task.pool is Pool.HEAP:
        yield from from_pretrained(task)
        return
    sources = hugging_face.mapped_sources(task)
    yield from hugging_face.allocator_warmup(task, task.floor_bytes)
    yield from steps.read(task, sources)
    converted: list[Step] = []  # by torch on the host, within its copy to the device
    for tensor in hugging_face.by_name(task):
        yield from sources.use("move", tensor)
        dtype = task.cast_dtype(tensor.dtype)
        nbytes = bytes_of(dtype, tensor.elements)
        moved = Step("move", Operation.MATERIALISE, task.pool, Item.FLOOR, tensor.name, nbytes)
        if dtype != tensor.dtype:
            converted.append(moved._replace(pool=Pool.HEAP, item=Item.WITHIN_COPY))
            yield converted[-1]
        yield moved
        if len(converted) == _THREADS:
            yield converted.pop(0).given_back("move")
    for step in converted:
        yield step.given_back("move")
    for tensor in task.checkpoint.tensors:
        yield from sources.drop("move", tensor)


def _offloading(task: LoadTask, left: frozenset[str]) -> Iterator[Step]:
    """One by one by their names; what is left on disk is cast all the same, and dropped when the next one is there."""
    sources = hugging_face.mapped_sources(task)
    yield from hugging_face.allocator_warmup(task, task.floor_bytes - task.target_bytes(left))
    yield from steps.read(task, sources)
    dropped: list[Step] = []
    for tensor in hugging_face.by_name(task):
        on_disk = tensor.name in left
        pool = Pool.HEAP if on_disk else task.pool
        dtype = task.cast_dtype(tensor.dtype)
        remade = dtype != tensor.dtype or pool is not Pool.HEAP
        made = Step("cast", Operation.MATERIALISE, pool, Item.FLOOR, tensor.name, bytes_of(dtype, tensor.elements))
        if remade:
            yield from sources.use("cast", tensor, Item.STAGING)
            yield made._replace(item=Item.STAGING) if on_disk else made
        yield from dropped
        dropped = [made._replace(operation=Operation.RELEASE, item=Item.STAGING)] if remade and on_disk else []
        if on_disk and _resaves(task):
            yield from sources.use("offload", tensor, Item.STAGING)
            yield Step("offload", Operation.COPY, Pool.NONE, "", tensor.name, made.nbytes)
    yield from dropped
    remade = task.casts or task.pool is not Pool.HEAP
    for tensor in task.checkpoint.tensors:
        if remade or tensor.name in left:
            yield from sources.drop("cast", tensor)
    for tensor in task.checkpoint.tensors:
        if not remade and tensor.name not in left:
            yield from sources.use("touch", tensor, Item.FLOOR)


STRATEGY = Strategy(
    id="hf-device-map",
    summary="from_pretrained with a device_map: each tensor goes from its mapped file to its device",
    good="a GPU's model without a copy on the host",
    bad="the files' pages stay mapped to the end; needs accelerate; what --max-memory leaves on disk is slow to use",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    offloads=_left,
    scratch_bytes=lambda task: task.target_bytes(_left(task)) if _resaves(task) else 0,
    lacks=lambda task: hugging_face.why_not(task) or offloading.why_not_offloaded(task, _left(task)),
    unpickles=False,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE),
)
