"""The runs of steps that ledgers are put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import FLOATING, bytes_of
from meminspect.strategies.sources import sources_for
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.sources import Sources
    from meminspect.strategies.task import LoadTask

__all__ = [
    "assign",
    "build",
    "build_unsaved",
    "copied",
    "copied_slice",
    "copy",
    "into_final_form",
    "join",
    "load_all",
    "read",
    "remakes",
    "touch",
]

# Looked up once: in Python 3.11 finding a member of an enumeration takes as long as the rest of a step.
_ASSIGN, _COPY = Operation.ASSIGN, Operation.COPY
_MATERIALISE, _RELEASE, _TOUCH = Operation.MATERIALISE, Operation.RELEASE, Operation.TOUCH
_HEAP, _NONE, _VRAM = Pool.HEAP, Pool.NONE, Pool.VRAM


def build(task: LoadTask, *, in_place: bool = False) -> Iterator[Step]:
    """Random weights: the model's floor, and what its initial dtype takes beyond that.

    Args:
        task: what to load.
        in_place: build on the task's device at once, rather than on the host and then move.
    """
    pool = task.pool if in_place else _HEAP
    for parameter in task.architecture.parameters:
        if parameter.tied_to is None:
            yield from _built(task, parameter, pool)
    if pool is not task.pool:
        yield from _move(task)


def build_unsaved(task: LoadTask) -> Iterator[Step]:
    """What alone has memory of a model whose parameters are on meta: the buffers that no state dict holds."""
    for parameter in task.unsaved:
        if parameter.tied_to is None:
            yield from _built(task, parameter, task.pool)


def _built(
    task: LoadTask, parameter: Parameter, pool: Pool, phase: str = "build", operation: Operation = _MATERIALISE
) -> list[Step]:
    elements = parameter.elements
    nbytes = bytes_of(task.initial_dtype(parameter), elements)
    floor = min(nbytes, bytes_of(task.target_dtype(parameter), elements))
    steps = [Step(phase, operation, pool, Item.FLOOR, parameter.name, floor)] if floor else []
    if nbytes > floor:
        steps.append(Step(phase, operation, pool, Item.UPCAST, parameter.name, nbytes - floor))
    return steps


def _move(task: LoadTask) -> Iterator[Step]:
    """A built model goes to the device, tensor by tensor: `model.to`."""
    for parameter in _once(task.conversion_order):
        yield from _built(task, parameter, task.pool, "move")
        yield from _built(task, parameter, _HEAP, "move", _RELEASE)


def _once(parameters: Sequence[Parameter]) -> Iterator[Parameter]:
    """Tied parameters only where the first of them is met: they are one object."""
    waiting = {parameter.name: parameter for parameter in parameters if parameter.tied_to is None}
    for parameter in parameters:
        owner = waiting.pop(parameter.tied_to or parameter.name, None)
        if owner is not None:
            yield owner


def reserve(task: LoadTask) -> Iterator[Step]:
    """`to_empty`: memory for the model, whose pages come on the host only as they are written to."""
    for parameter in task.conversion_order:
        steps = _built(task, parameter, task.pool)
        if task.pool is _VRAM:
            yield from steps
        elif steps:  # one allocation, which costs nothing yet
            nbytes = sum(step.nbytes for step in steps)
            yield steps[0]._replace(pool=_NONE, item="", nbytes=nbytes)


def cast(task: LoadTask, dtype: str) -> Iterator[Step]:
    """`model.to(dtype)`: tensor by tensor, each old one dropped at once."""
    for parameter in _once(task.conversion_order):
        built = task.initial_dtype(parameter)
        if built in FLOATING and built != dtype:
            nbytes = bytes_of(dtype, parameter.elements)
            yield Step("cast", _MATERIALISE, task.pool, Item.FLOOR, parameter.name, nbytes)
            yield from _built(task, parameter, task.pool, "cast", _RELEASE)


def read(task: LoadTask, sources: Sources, files: Iterable[int] | None = None) -> Iterator[Step]:
    """Read or map files, all unless some are named; what lies beside the state dict goes as soon as a file is read.

    Files are read from beginning to end, which is not the state dict's order where torch wrote them before 1.6.
    """
    for file in range(len(task.checkpoint.files)) if files is None else files:
        beside = task.beside_by_file[file]
        if not beside:
            yield from sources.read(sorted(task.tensors_by_file[file], key=_place))
            continue
        items = {**dict.fromkeys(task.tensors_by_file[file], ""), **dict.fromkeys(beside, Item.BESIDE)}
        for tensor in sorted(items, key=_place):
            yield from sources.read([tensor], item=items[tensor])
        for tensor in beside:
            yield from sources.drop("read", tensor)


def _place(tensor: StoredTensor) -> int:
    return tensor.storage.offset


def join(task: LoadTask, sources: Sources, item: str) -> Iterator[Step]:
    """Join model-parallel slices, each dropped as soon as its tensor is whole."""
    for name, pieces in task.pieces.items():
        if task.split_dims[name] is None:
            for piece in pieces[1:]:
                yield from sources.drop("merge", piece)
            continue
        for piece in pieces:
            yield from sources.use("merge", piece)
        whole = sum(piece.nbytes for piece in pieces)
        yield Step("merge", _MATERIALISE, sources.made_pool, item, name, whole)
        for piece in pieces:
            yield from sources.drop("merge", piece)


def copy(
    task: LoadTask, sources: Sources, tensors: Iterable[StoredTensor], *, untouched: bool = False
) -> Iterator[Step]:
    """Copy whole tensors into the model, in the model's order."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for place in sorted(task.loading_places[name] for name in by_name if name in task.loading_places):
        parameter = task.loading_order[place]
        tensor = by_name[parameter.name]
        yield from sources.use("copy", tensor)
        yield from copied(task, parameter, tensor.dtype, sources.pool, untouched=untouched)


def load_all(task: LoadTask, *, to_device: bool, untouched: bool = False, one_by_one: bool = False) -> Iterator[Step]:
    """`recipes.load_all`: the whole state dict beside the model, copied in and dropped.

    Args:
        task: what to load.
        to_device: whether it is read to the task's device.
        untouched: the model's memory has not been written to yet.
        one_by_one: each tensor goes to the device as it is stored before it is copied there.
    """
    tensors = task.checkpoint.tensors
    sources = sources_for(task, Item.DUPLICATE, to_device=to_device)
    yield from read(task, sources)
    if task.checkpoint.parallel_files:
        yield from join(task, sources, Item.DUPLICATE)
        tensors = task.tensors_by_file[0]
    if one_by_one and task.pool is _VRAM:
        yield from _copy_by_device(task, sources, tensors)
    else:
        yield from copy(task, sources, tensors, untouched=untouched)
    for tensor in tensors:
        if task.checkpoint.parallel_files and task.split_dims[tensor.name] is not None:
            whole = sum(piece.nbytes for piece in task.pieces[tensor.name])
            yield Step("copy", _RELEASE, sources.made_pool, Item.DUPLICATE, tensor.name, whole)
        else:
            yield from sources.drop("copy", tensor)


def _copy_by_device(task: LoadTask, sources: Sources, tensors: Iterable[StoredTensor]) -> Iterator[Step]:
    """As `copy`, each tensor through a copy on the device."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for parameter in task.loading_order:
        tensor = by_name.get(parameter.name)
        if tensor is not None:
            nbytes = bytes_of(tensor.dtype, parameter.elements)
            staging = Step("move", _MATERIALISE, _VRAM, Item.STAGING, sources.name_of(tensor), nbytes)
            yield from sources.use("move", tensor)
            yield staging
            yield from copied(task, parameter, tensor.dtype, _VRAM)
            yield staging.given_back("copy")


def copied(
    task: LoadTask, parameter: Parameter, stored: str, source: Pool, *, untouched: bool = False
) -> Iterator[Step]:
    """One `copy_` into the model.

    From the host to a device one that casts converts on the host first, in memory of its own (aten/src/ATen/native/
    cuda/Copy.cu, `copy_kernel_cuda`: only non-blocking copies convert on the device; mps/operations/Copy.mm,
    `copy_to_mps_`). XPU's is taken to do as CUDA's.
    """
    nbytes, name = bytes_of(stored, parameter.elements), parameter.tied_to or parameter.name
    work = Step("copy", _COPY, _NONE, "", name, nbytes)
    built = task.initial_dtype(parameter)
    if untouched and task.pool is _HEAP:
        yield from _built(task, parameter, _HEAP, "copy", _TOUCH)
    if task.pool is not _VRAM or source is _VRAM or built == stored:
        yield work
        return
    nbytes = bytes_of(built, parameter.elements)
    staging = Step("copy", _MATERIALISE, _HEAP, Item.WITHIN_COPY, name, nbytes)
    yield staging
    yield work
    yield staging._replace(operation=_RELEASE)


def copied_slice(task: LoadTask, piece: StoredTensor) -> Iterator[Step]:
    """One slice of a tensor is copied to its place in the model, from the host.

    A place on a device that is no run of bytes is filled through a copy there (the same source).
    """
    parameter = task.parameters[piece.name]
    sliced = parameter._replace(shape=piece.shape)
    scattered = task.pool is _VRAM and bool(parameter.split_dim)
    nbytes = bytes_of(task.initial_dtype(parameter), piece.elements)
    staging = Step("copy", _MATERIALISE, _VRAM, Item.WITHIN_COPY, piece.name, nbytes)
    if scattered:
        yield staging
    yield from copied(task, sliced, piece.dtype, _HEAP)
    if scattered:
        yield staging._replace(operation=_RELEASE)


def assign(task: LoadTask) -> Iterator[Step]:
    """Hand the state dict's memory over to the model, in the model's order."""
    for parameter in task.loading_order:
        if parameter.name in task.pieces:
            nbytes = bytes_of(task.target_dtype(parameter), parameter.elements)
            yield Step("assign", _ASSIGN, _NONE, "", parameter.name, nbytes)


def remakes(task: LoadTask) -> bool:
    """Whether what is read to the host is not what the model keeps: it is joined, cast or moved to a device."""
    return task.checkpoint.parallel_files or task.casts or task.pool is not _HEAP


def into_final_form(task: LoadTask, sources: Sources) -> Iterator[Step]:
    """Join slices, then move and cast, tensor by tensor; each source goes as soon as its successor is made.

    Tied tensors come apart in a move or a cast: every name gets a copy of its own.
    """
    parallel = task.checkpoint.parallel_files
    moves = task.pool is _VRAM
    if parallel:
        yield from join(task, sources, Item.STAGING if task.casts or moves else Item.FLOOR)
    for name, pieces in task.pieces.items():
        dtype = task.cast_dtype(pieces[0].dtype)
        casts = dtype != pieces[0].dtype
        if not casts and not moves:
            continue
        joined = parallel and task.split_dims[name] is not None
        phase = "move" if moves else "cast"
        if not joined:
            yield from sources.use(phase, pieces[0])
        stored = sum(piece.nbytes for piece in pieces) if joined else pieces[0].nbytes
        elements = sum(piece.elements for piece in pieces) if joined else pieces[0].elements
        owner = sources.name_of(pieces[0]) if not joined else name
        final = Step("cast", _MATERIALISE, task.pool, Item.FLOOR, owner, bytes_of(dtype, elements))
        moved = Step(phase, _MATERIALISE, task.pool, Item.STAGING if casts else Item.FLOOR, owner, stored)
        yield moved if moves else final
        if joined:
            yield Step(phase, _RELEASE, _HEAP, Item.STAGING, name, stored)
        else:
            yield from sources.drop(phase, pieces[0])
        if moves and casts:
            yield final
            yield moved.given_back("cast")


def touch(task: LoadTask, sources: Sources) -> Iterator[Step]:
    """Make every page of the model resident that is still only mapped."""
    if task.pool is _VRAM:
        return
    for parameter in task.loading_order:
        pieces = task.pieces.get(parameter.name, ())
        if not pieces or task.cast_dtype(pieces[0].dtype) != pieces[0].dtype:
            continue
        if not task.checkpoint.parallel_files or task.split_dims[parameter.name] is None:
            yield from sources.use("touch", pieces[0], Item.FLOOR)
