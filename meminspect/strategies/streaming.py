"""What strategies have in common that load with our own reader: the words of their recipes, and their theory.

Threads read the files straight into the model's final memory; what is converted on the way passes through staging.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.staging import CHUNK_BYTES, SECTOR_BYTES, default_threads
from meminspect.strategies import quantisation, steps
from meminspect.text import shown
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["lacks", "ledger", "load"]

_NOTHING: Final[Mapping[str, Parameter]] = {}
_AS_THEY_LIE: Final = "this reader takes the bytes as they lie: meta-assign turns and resolves them"


def load(task: LoadTask) -> str:
    """The lines that load the model."""
    options = ""
    if task.options.device != "cpu":
        options += f", device={task.options.device!r}"
    if task.casts:
        options += f", dtype=torch.{task.options.dtype}"
    return f"path = {str(task.checkpoint.path)!r}\nload(model, path{options})"


class _Memory(NamedTuple):
    """What is filled as one: its first tensor's name, elements, and the reads that pass through staging."""

    name: str
    stored: str
    elements: int
    chunks: int = 0
    largest_chunk_bytes: int = 0
    quantised: Parameter | None = None  # the weight that is quantised


def ledger(task: LoadTask, quantised: Mapping[str, Parameter] = _NOTHING) -> Iterator[Step]:
    """Build on meta, and load with threads.

    Args:
        task: what to load.
        quantised: the weights that become int8 or nf4 while they are read, by name.
    """
    yield from steps.build_unsaved(task)
    memories = list(_slices(task) if task.checkpoint.parallel_files else _stretches(task, quantised))
    # Every thread that has something to convert, join or send to a device does so through staging of its own.
    buffers = min(default_threads(), sum(memory.chunks for memory in memories))
    pool = Pool.PINNED if task.pins else Pool.HEAP
    largest = _largest_chunk_bytes(memories) + SECTOR_BYTES + _scratch_bytes(task, quantised)
    staging = [
        Step("read", Operation.MATERIALISE, pool, Item.STAGING, f"staging of reader {number + 1}", largest)
        for number in range(buffers)
    ]
    if task.pool is Pool.VRAM:  # a copy that casts converts on the host first, in memory of its own
        converted = max((_converted_bytes(task, memory) for memory in memories), default=0)
        staging += [
            step._replace(pool=Pool.HEAP, item=Item.WITHIN_COPY, nbytes=converted) for step in staging if converted
        ]
    yield from staging
    for memory in memories:
        if memory.quantised is None:
            nbytes = bytes_of(task.cast_dtype(memory.stored), memory.elements)
            yield Step("read", Operation.MATERIALISE, task.pool, Item.FLOOR, memory.name, nbytes)
            continue
        for nbytes in quantisation.sizes(task, memory.quantised):
            yield Step("read", Operation.MATERIALISE, task.pool, Item.QUANTISED, memory.name, nbytes)
    for step in staging:
        yield step._replace(operation=Operation.RELEASE)
    for name, loaded in _loaded_names(task).items():
        elements = sum(piece.elements for piece in _joined(task, loaded))
        whole = bytes_of(task.cast_dtype(task.pieces[loaded][0].dtype), elements)
        for nbytes in quantisation.sizes(task, quantised[name]) if name in quantised else (whole,):
            yield Step("assign", Operation.ASSIGN, Pool.NONE, "", name, nbytes)


def _largest_chunk_bytes(memories: Sequence[_Memory]) -> int:
    return max((memory.largest_chunk_bytes for memory in memories), default=0)


def _scratch_bytes(task: LoadTask, quantised: Mapping[str, Parameter]) -> int:
    """What each thread quantises in."""
    return max((quantisation.scratch_bytes(task, parameter) for parameter in quantised.values()), default=0)


def _converted_bytes(task: LoadTask, memory: _Memory) -> int:
    """What a chunk takes in the dtype that it is cast to; nothing where it is not cast."""
    wanted = task.cast_dtype(memory.stored)
    if wanted == memory.stored or memory.quantised is not None:
        return 0
    return memory.largest_chunk_bytes // bytes_of(memory.stored, 1) * bytes_of(wanted, 1)


def _loaded_names(task: LoadTask) -> dict[str, str]:
    """The model's parameters by their first name, and of their stored names the last: what `load_state_dict` leaves."""
    first: dict[str, str] = {}
    loaded: dict[str, str] = {}
    for parameter in task.loading_order:
        name = first.setdefault(parameter.tied_to or parameter.name, parameter.name)
        if parameter.name in task.pieces:
            loaded[name] = parameter.name
    return loaded


def _stretches(task: LoadTask, quantised: Mapping[str, Parameter]) -> Iterator[_Memory]:
    """The parts of storages that tensors need, in the order of the files."""
    wanted = set(_loaded_names(task).values())
    sharing: dict[tuple[int, int, str, str], list[StoredTensor]] = defaultdict(list)
    for tensor in task.checkpoint.tensors:
        if tensor.name in wanted and tensor.elements:
            alone = tensor.name if tensor.name in quantised else ""
            sharing[tensor.storage.file, tensor.storage.offset, tensor.dtype, alone].append(tensor)
    for (_, _, stored, alone), tensors in sorted(sharing.items(), key=lambda item: item[0]):
        if alone:
            yield _quantised(task, tensors[0], quantised[alone])
            continue
        start = min(tensor.file_offset for tensor in tensors)
        nbytes = max(tensor.file_offset + _span_bytes(tensor) for tensor in tensors) - start
        memory = _Memory(tensors[0].name, stored, nbytes // bytes_of(stored, 1))
        if task.pool is Pool.VRAM or task.cast_dtype(stored) != stored:
            memory = memory._replace(
                chunks=math.ceil(nbytes / CHUNK_BYTES), largest_chunk_bytes=min(nbytes, CHUNK_BYTES)
            )
        yield memory


def _quantised(task: LoadTask, tensor: StoredTensor, parameter: Parameter) -> _Memory:
    """A weight that is read and quantised some groups at a time."""
    group_bytes = bytes_of(tensor.dtype, quantisation.group(task, parameter))
    largest = min(tensor.nbytes, max(CHUNK_BYTES // group_bytes, 1) * group_bytes)
    chunks = math.ceil(tensor.nbytes / largest)
    return _Memory(tensor.name, tensor.dtype, tensor.elements, chunks, largest, parameter)


def _span_bytes(tensor: StoredTensor) -> int:
    """From the first byte of a tensor to its last."""
    if tensor.strides is None:
        return tensor.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    return bytes_of(tensor.dtype, 1 + last)


def _slices(task: LoadTask) -> Iterator[_Memory]:
    """Whole tensors, in the order of the first file; rows that lie as they will are read where they belong."""
    wanted = set(_loaded_names(task).values())
    for name in task.pieces:
        pieces = _joined(task, name)
        stored, elements = pieces[0].dtype, sum(piece.elements for piece in pieces)
        if name not in wanted or not elements:
            continue
        memory = _Memory(name, stored, elements)
        if task.pool is Pool.VRAM or task.cast_dtype(stored) != stored or (task.split_dims[name] or 0) > 0:
            rows = pieces[0].shape[0] if pieces[0].shape else 1
            row_bytes = pieces[0].nbytes // rows
            rows_at_once = min(rows, max(1, CHUNK_BYTES // row_bytes))
            memory = memory._replace(
                chunks=len(pieces) * math.ceil(rows / rows_at_once), largest_chunk_bytes=rows_at_once * row_bytes
            )
        yield memory


def _joined(task: LoadTask, name: str) -> Sequence[StoredTensor]:
    """The stored tensors that one is made of."""
    pieces = task.pieces[name]
    whole = not task.checkpoint.parallel_files or task.split_dims[name] is None
    return pieces[:1] if whole else pieces


def lacks(task: LoadTask) -> str | None:
    """In one sentence what this reader does not read; None when there is no such thing."""
    turned = next((file for file in task.checkpoint.files if file.big_endian), None)
    if turned is not None:
        return f"{shown(turned.name)} is big-endian, and {_AS_THEY_LIE}"
    chunk = next((first for first, *_ in task.checkpoint.alike if first.chunk is not None), None)
    if chunk is not None:
        return f"tensors are stored in chunks, as {shown(chunk.name)}, which meta-assign and naive join"
    lazy = next((tensor for tensor in task.checkpoint.tensors if tensor.lazy), None)
    if lazy is not None:
        return f"{shown(lazy.name)} is stored conjugated or negated, and {_AS_THEY_LIE}"
    return None
