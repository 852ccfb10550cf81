"""`accelerate-dispatch`: a model without memory, which accelerate fills file by file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face, offloading
from meminspect.strategies.sources import sources_for
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    casts = "" if task.options.dtype is None else f", dtype=torch.{task.options.dtype}"
    if task.options.max_memory_bytes is None:
        imported, place = "", f'model, folder, device_map={{"": {task.options.device!r}}}{casts}'
    else:
        imported, whole = offloading.IMPORT, "no_split_module_classes=list(model._no_split_modules)"
        place = f"\n    model, folder, {whole}{casts},\n    {offloading.max_memory(task)}"
    return recipes.recipe(
        f"{imported}from accelerate import init_empty_weights, load_checkpoint_and_dispatch\n"
        + hugging_face.imports(task, "AutoConfig"),
        f"folder = {hugging_face.folder(task)}\nconfig = AutoConfig.from_pretrained(folder)\n"
        f"with init_empty_weights():\n    model = {hugging_face.built(task, 'config')}\nmodel.tie_weights()",
        f"model = load_checkpoint_and_dispatch({place})",
    )


def _left(task: LoadTask) -> frozenset[str]:
    """What is left on disk; a parameter counts in the dtype that it is built in, or a smaller one of a cast."""
    built = hugging_face.built_dtype(task)
    dtypes = (built, task.options.dtype or built)
    return offloading.left_on_disk(task, lambda one: min(bytes_of(dtype, one.elements) for dtype in dtypes))


def _lacks(task: LoadTask) -> str | None:
    if task.options.max_memory_bytes is not None and task.pool is not Pool.HEAP:
        return "with --max-memory it is planned on the cpu alone: hf-device-map takes it on a device too"
    return hugging_face.why_not_built(task) or offloading.why_not_offloaded(task, _left(task))


def _ledger(task: LoadTask) -> Iterator[Step]:
    left = _left(task)
    if left:
        yield from _offloading(task, left)
        return
    # What is not told a dtype is cast to that of the parameter in its place (`set_module_tensor_to_device`).
    dtype = task.options.dtype or hugging_face.built_dtype(task)
    task = dataclasses.replace(task, options=dataclasses.replace(task.options, dtype=dtype))
    to_device = recipes.is_safetensors(task)  # those it reads to where the model shall be; pickles to the host
    remakes = task.casts or (task.pool is Pool.VRAM and not to_device)
    sources = sources_for(task, Item.STAGING if remakes else Item.FLOOR, to_device=to_device)
    for file, tensors in enumerate(task.tensors_by_file):
        yield from steps.read(task, sources, [file])
        remade = [
            tensor
            for tensor in tensors
            if task.cast_dtype(tensor.dtype) != tensor.dtype or task.pool is not sources.made_pool
        ]
        for tensor in remade:
            yield from sources.use("cast", tensor)
            nbytes = bytes_of(task.cast_dtype(tensor.dtype), tensor.elements)
            yield Step("cast", Operation.MATERIALISE, task.pool, Item.FLOOR, tensor.name, nbytes)
        for tensor in remade:
            yield from sources.drop("cast", tensor)
    yield from steps.touch(task, sources)


def _offloading(task: LoadTask, left: frozenset[str]) -> Iterator[Step]:
    """`load_checkpoint_in_model`: all goes to files of its own, what is to stay too, which is read again at the end."""
    sources = sources_for(task, Item.STAGING)
    kept: list[StoredTensor] = []  # its loop's variable: the last tensor of a file, and of what is mapped all of it
    for file, tensors in enumerate(task.tensors_by_file):
        yield from steps.read(task, sources, [file])
        for tensor in kept:
            yield from sources.drop("read", tensor)
        ordered = _in_turn(task, tensors, left)
        for tensor in ordered:
            written = _written("offload", Operation.TOUCH, tensor)
            yield from sources.use("offload", tensor)
            yield written
            yield Step("offload", Operation.COPY, Pool.NONE, "", tensor.name, tensor.nbytes)
            yield written._replace(operation=Operation.RELEASE)
        kept = ordered[-1:]
        for tensor in ordered[:-1]:
            yield from sources.drop("offload", tensor)
    yield from _read_again(task, left)
    for tensor in kept:
        yield from sources.drop("read", tensor)


def _read_again(task: LoadTask, left: frozenset[str]) -> Iterator[Step]:
    """`load_offloaded_weights`: each is copied from its file and cast; it is kept until the next is there."""
    previous: list[Step] = []
    staying = [tensor for tensors in task.tensors_by_file for tensor in _in_turn(task, tensors, left)]
    for tensor in staying:
        if tensor.name in left:
            continue
        dtype, mapped = task.cast_dtype(tensor.dtype), _written("read", Operation.TOUCH, tensor)
        item = Item.FLOOR if dtype == tensor.dtype else Item.STAGING
        copied = Step("read", Operation.MATERIALISE, Pool.HEAP, item, tensor.name, tensor.nbytes)
        yield from (mapped, copied, mapped._replace(operation=Operation.RELEASE))
        yield from previous
        previous = []
        if dtype != tensor.dtype:
            nbytes = bytes_of(dtype, tensor.elements)
            yield Step("cast", Operation.MATERIALISE, Pool.HEAP, Item.FLOOR, tensor.name, nbytes)
            previous = [copied._replace(phase="read", operation=Operation.RELEASE)]
    yield from previous


def _in_turn(task: LoadTask, tensors: Iterable[StoredTensor], left: frozenset[str]) -> list[StoredTensor]:
    """A file's tensors as they are taken: of safetensors those first that stay, layer by layer; then by their names."""
    if not recipes.is_safetensors(task):
        return list(tensors)
    places: dict[str, int] = {}
    for place, parameter in enumerate(task.loading_order):
        places.setdefault(offloading.layer_of(parameter.name), place)

    def turn(tensor: StoredTensor) -> tuple[bool, int, str]:
        last = tensor.name in left
        return last, 0 if last else places[offloading.layer_of(tensor.name)], tensor.name

    return sorted(tensors, key=turn)


def _written(phase: str, operation: Operation, tensor: StoredTensor) -> Step:
    """A weight's own file, mapped."""
    return Step(phase, operation, Pool.FILE, Item.STAGING, f"{tensor.name}.dat", tensor.nbytes)


STRATEGY = Strategy(
    id="accelerate-dispatch",
    summary="builds transformers' model without memory; accelerate fills it, file by file",
    good="models of your own code, placed over several devices",
    bad="a cast holds a file beside what is made of it; with --max-memory all goes to disk, and what stays comes back",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    built_dtype=hugging_face.built_dtype,
    offloads=_left,
    scratch_bytes=lambda task: task.checkpoint.nbytes if _left(task) else 0,
    lacks=_lacks,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE),
)
