"""`fastsafetensors`: whole files read into one buffer each, and tensors that are views of it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Operation, Pool
from meminspect.devices import index_of, kind_of
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]

_BOUNCE_BYTES: Final = 16 << 20  # copier/nogds.py: `bbuf_size_kb`


def _recipe(task: LoadTask) -> str:
    device = task.options.device
    if task.pool is Pool.VRAM:
        device = f"{kind_of(device)}:{index_of(device)}"  # it takes none without a number
    return recipes.recipe(
        recipes.header(task, "from fastsafetensors import fastsafe_open"),
        recipes.meta_build(task),
        f"""
state_dict = {{}}
with fastsafe_open([str(file) for file in files], nogds=True, device={device!r}) as opened:
    for name in opened.keys():
        state_dict[name] = opened.get_tensor(name)  # which keeps the whole file's buffer
""",
        recipes.convert(task),
        "model.load_state_dict(state_dict, assign=True)\ndel state_dict",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build_unsaved(task)
    host = Pool.HEAP if task.pool is Pool.HEAP else Pool.PINNED
    bounce = Step("read", Operation.MATERIALISE, host, Item.STAGING, "bounce buffer", _BOUNCE_BYTES)
    yield bounce
    buffers = [_buffer(task, file) for file in range(len(task.checkpoint.files))]
    yield from itertools.chain.from_iterable(buffers)
    yield bounce._replace(operation=Operation.RELEASE)
    left = [len(tensors) for tensors in task.tensors_by_file]
    for pieces in task.pieces.values() if task.casts else ():
        (tensor,), dtype = pieces, task.cast_dtype(pieces[0].dtype)
        if dtype != tensor.dtype:
            nbytes = bytes_of(dtype, tensor.elements)
            yield Step("cast", Operation.MATERIALISE, task.pool, Item.FLOOR, tensor.name, nbytes)
            left[tensor.storage.file] -= 1
        if not left[tensor.storage.file]:  # a file's buffer goes with its last tensor
            yield from (step.given_back("cast") for step in buffers[tensor.storage.file])
    yield from steps.assign(task)


def _buffer(task: LoadTask, file: int) -> list[Step]:
    """What a file is read into: on the host tensor by tensor, of torch's allocator for a device in one piece."""
    item = Item.STAGING if task.casts else Item.FLOOR
    tensors = [(tensor.name, tensor.storage.nbytes) for tensor in task.tensors_by_file[file]]
    if task.pool is Pool.VRAM:
        tensors = [(task.checkpoint.files[file].name, sum(nbytes for _, nbytes in tensors))]
    return [Step("read", Operation.MATERIALISE, task.pool, item, *tensor) for tensor in tensors]


STRATEGY = Strategy(
    id="fastsafetensors",
    summary="reads each file into one buffer in large blocks; the model's tensors are views of it",
    good="one checkpoint of memory; GPUs with GPUDirect Storage",
    bad="a layer that is dropped or replaced gives nothing back while any other of its file lives",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: False,
    lacks=packages.why_not_safetensors,
    packages=(packages.FASTSAFETENSORS,),
    kinds=("cpu", "cuda"),
)
