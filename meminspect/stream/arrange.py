"""Plans, from the headers alone, where every tensor of a checkpoint will lie and which reads put it there.

Bytes that are wanted as they are stored go straight from the file to their place. Small tensors that lie side by side
in the file lie side by side in memory, gaps included, and are read at once. What is cast, joined from model-parallel
slices or sent to a device passes through a thread's staging, a chunk at a time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from meminspect.dtypes import BITS
from meminspect.errors import StreamError
from meminspect.staging import CHUNK_BYTES
from meminspect.stream.memory import Memory
from meminspect.stream.quantising import Quantising
from meminspect.stream.reading import Filling, Part, Read, residue
from meminspect.stream.sending import copy_to
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from meminspect.checkpoint.model import Checkpoint, StoredTensor
    from meminspect.stream.memory import Block
    from meminspect.stream.quantised import QuantisedLinear

__all__ = [
    "Arrangement",
    "arrange",
    "copy_staged",
    "direct_reads",
    "flat_tensor",
    "torch_dtype",
    "wanted_dtype",
]

_RUN_BYTES: Final = 4 << 20  # small tensors that share a block: a layer's, so that one that is dropped frees its memory
_SMALL_BYTES: Final = 1 << 20
_MOST_GAP_BYTES: Final = 4096  # between two tensors that are read at once: a zip entry's header and padding
_BYTE: Final = 8


@dataclass(frozen=True)
class Arrangement:
    """Tensors that have their memory already, and the reads that fill it."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    scales: dict[str, torch.Tensor] = field(default_factory=dict)  # of those that are quantised
    reads: list[Read] = field(default_factory=list)

    def fill(self, stored: Iterable[StoredTensor], reads: Callable[[Filling], Iterable[Read]]) -> None:
        """Add the reads that fill memory, which goes by the first of the tensors in each part of it."""
        self.fill_parts(tuple(Part(tensor.name, tensor, self.tensors[tensor.name]) for tensor in stored), reads)

    def fill_parts(self, parts: tuple[Part, ...], reads: Callable[[Filling], Iterable[Read]]) -> None:
        """Add the reads that fill parts of memory."""
        filling = Filling(parts)
        before = len(self.reads)
        self.reads.extend(reads(filling))
        filling.reads_left = len(self.reads) - before


class _Form(NamedTuple):
    """What a stored type and shape come to. A model has few, and many tensors of each."""

    stored: torch.dtype
    wanted: torch.dtype
    nbytes: int  # without gaps, as it is stored


class _Stretch(NamedTuple):
    """What tensors of one storage need of it: bytes of a file that become one run of elements.

    There may be a hundred thousand: what is asked of each more than once is worked out once.
    """

    tensors: Sequence[StoredTensor]
    file: int
    start: int
    end: int
    stored: torch.dtype
    wanted: torch.dtype
    small: bool  # and in memory as in the file: it may share a block with its neighbours
    quantising: Quantising | None = None  # of a weight that is quantised

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def elements(self) -> int:
        return self.nbytes // self.stored.itemsize


def arrange(
    checkpoint: Checkpoint,
    names: Iterable[str],
    dtype: torch.dtype | None,
    device: torch.device,
    layers: Mapping[str, QuantisedLinear] | None = None,
) -> Arrangement:
    """Plan the loading of tensors that each lie whole in one file.

    Args:
        checkpoint: its headers.
        names: the tensors that are wanted.
        dtype: what floating-point tensors become; None to leave them.
        device: where they will be.
        layers: those whose weights, by name, are quantised; None for none.

    Raises:
        StreamError: a tensor is of a type that torch does not have, or cannot be quantised.
        MemoryError: the system does not promise so much memory.
    """
    arrangement = Arrangement()
    runs = list(_runs(_stretches(checkpoint, set(names), dtype, device, arrangement, layers or {})))
    memory = Memory(sum(_room(run) for run in runs), len(runs)) if device.type == "cpu" else None
    for run in runs:
        if run[0].quantising is not None:
            _place_quantised(run[0].quantising, memory, device, arrangement)
        elif memory is not None and run[0].stored == run[0].wanted:
            _place_run(run, memory, arrangement)
        else:
            for stretch in run:
                _place_staged(stretch, memory, device, arrangement)
    return arrangement


def torch_dtype(tensor: StoredTensor) -> torch.dtype:
    """The type of a stored tensor's elements.

    Raises:
        StreamError: torch has no such type, or not for a plain tensor.
    """
    dtype = _plain_dtype(tensor.dtype)
    if dtype is None:
        raise StreamError(f"'{shown(tensor.name)}' is {tensor.dtype}, of which torch has no plain tensors")
    return dtype


@functools.cache
def _plain_dtype(name: str) -> torch.dtype | None:
    dtype = getattr(torch, name, None)
    plain = isinstance(dtype, torch.dtype) and BITS[name] >= _BYTE and not name.startswith(("q", "quint"))
    return dtype if plain else None


def wanted_dtype(stored: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """What a type becomes: floating-point ones the one that was asked for."""
    return dtype if dtype is not None and stored.is_floating_point else stored


def _span_bytes(tensor: StoredTensor, form: _Form) -> int:
    """Bytes of the storage from a tensor's first element to its last, both included; it has some."""
    if tensor.strides is None:
        return form.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    return (1 + last) * form.stored.itemsize


def _stretches(
    checkpoint: Checkpoint,
    names: set[str],
    dtype: torch.dtype | None,
    device: torch.device,
    arrangement: Arrangement,
    layers: Mapping[str, QuantisedLinear],
) -> Iterator[_Stretch]:
    """The bytes that are needed, storage by storage in the order of the files; empty tensors are arranged at once."""
    forms: dict[tuple[str, tuple[int, ...]], _Form] = {}
    sharing: dict[tuple[int, int, str, str], list[StoredTensor]] = {}
    for tensor in checkpoint.tensors:
        if tensor.name not in names:
            continue
        form = forms.get((tensor.dtype, tensor.shape))
        if form is None:
            stored = torch_dtype(tensor)
            form = forms[tensor.dtype, tensor.shape] = _Form(stored, wanted_dtype(stored, dtype), tensor.nbytes)
        if form.nbytes:
            quantised = tensor.name if tensor.name in layers else ""  # which shares memory with no other
            key = (tensor.storage.file, tensor.storage.offset, tensor.dtype, quantised)
            sharing.setdefault(key, []).append(tensor)
        else:
            arrangement.tensors[tensor.name] = torch.empty(tensor.shape, dtype=form.wanted, device=device)
    for (file, _, _, quantised), tensors in sorted(sharing.items(), key=itemgetter(0)):
        form = forms[tensors[0].dtype, tensors[0].shape]
        start = tensors[0].file_offset
        end = start + _span_bytes(tensors[0], form)
        for tensor in tensors[1:]:
            start = min(start, tensor.file_offset)
            end = max(end, tensor.file_offset + _span_bytes(tensor, forms[tensor.dtype, tensor.shape]))
        quantising = Quantising(layers[quantised], tensors[0], form.stored) if quantised else None
        small = form.stored == form.wanted and end - start < _SMALL_BYTES and quantising is None
        yield _Stretch(tensors, file, start, end, form.stored, form.wanted, small, quantising)


def _runs(stretches: Iterable[_Stretch]) -> Iterator[list[_Stretch]]:
    """Small stretches that lie side by side, together; every other one by itself."""
    run: list[_Stretch] = []
    for stretch in stretches:
        if run and not _belongs(run, stretch):
            yield run
            run = []
        run.append(stretch)
    if run:
        yield run


def _belongs(run: Sequence[_Stretch], stretch: _Stretch) -> bool:
    first, last = run[0], run[-1]
    return (
        last.small
        and stretch.small
        and stretch.file == first.file
        and 0 <= stretch.start - last.end <= _MOST_GAP_BYTES
        and stretch.end - first.start <= _RUN_BYTES
        and (stretch.start - first.start) % stretch.stored.itemsize == 0
    )


def _room(run: Sequence[_Stretch]) -> int:
    """Bytes that a run takes in memory; of those that are cast each is a run."""
    first = run[0]
    if first.quantising is not None:
        return first.quantising.nbytes()
    return run[-1].end - first.start if first.stored == first.wanted else first.elements * first.wanted.itemsize


def _place_run(run: Sequence[_Stretch], memory: Memory, arrangement: Arrangement) -> None:
    """Give stretches one block in which they lie as in the file, and read them at once."""
    file, start, end = run[0].file, run[0].start, run[-1].end
    whole = all(each.start % each.stored.itemsize == 0 for each in run)
    block = memory.block(end - start, residue(start, run[0].stored) if whole else 0)
    for stretch in run:
        flat = block.tensor(stretch.stored, stretch.start - start, stretch.elements)
        _place(stretch, flat, arrangement)
    firsts = [stretch.tensors[0] for stretch in run]
    arrangement.fill(firsts, lambda filling: direct_reads(file, start, end - start, filling, block, 0))


def _place_quantised(
    quantising: Quantising, memory: Memory | None, device: torch.device, arrangement: Arrangement
) -> None:
    """Give a weight that is quantised memory for values and scales."""
    values, scale = quantising.place(memory, device)
    arrangement.tensors[quantising.name] = values
    arrangement.scales[quantising.name] = scale
    parts = tuple(Part(quantising.name, quantising.tensor, part) for part in (values, scale))
    arrangement.fill_parts(parts, lambda filling: quantising.reads(filling, values, scale))


def _place_staged(stretch: _Stretch, memory: Memory | None, device: torch.device, arrangement: Arrangement) -> None:
    """Give a stretch memory of its own, which chunks are copied to as they are read."""
    block = None if memory is None else memory.block(stretch.elements * stretch.wanted.itemsize)
    flat = flat_tensor(block, stretch.elements, stretch.wanted, device)
    _place(stretch, flat, arrangement)
    arrangement.fill(stretch.tensors[:1], lambda filling: _staged(stretch, filling, flat))


def _staged(stretch: _Stretch, filling: Filling, flat: torch.Tensor) -> Iterator[Read]:
    for begin in range(0, stretch.nbytes, CHUNK_BYTES):
        nbytes = min(CHUNK_BYTES, stretch.nbytes - begin)
        first = begin // stretch.stored.itemsize
        part = flat[first : first + nbytes // stretch.stored.itemsize]
        deliver, offset = partial(copy_staged, part, stretch.stored), stretch.start + begin
        yield Read(stretch.file, offset, nbytes, filling, None, deliver, residue(offset, stretch.stored))


def _place(stretch: _Stretch, flat: torch.Tensor, arrangement: Arrangement) -> None:
    """Make the tensors of a stretch out of its elements, which those that share a storage go on sharing."""
    only = stretch.tensors[0]
    if len(stretch.tensors) == 1 and only.strides is None:
        arrangement.tensors[only.name] = flat if len(only.shape) == 1 else flat.view(only.shape)
        return
    for tensor in stretch.tensors:
        first = (tensor.file_offset - stretch.start) // stretch.stored.itemsize
        if tensor.strides is not None:
            arrangement.tensors[tensor.name] = flat.as_strided(tensor.shape, tensor.strides, first)
        elif first == 0 and flat.numel() == tensor.elements:
            arrangement.tensors[tensor.name] = flat.view(tensor.shape)
        else:
            arrangement.tensors[tensor.name] = flat[first : first + tensor.elements].view(tensor.shape)


def flat_tensor(block: Block | None, elements: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A one-dimensional tensor that fills a block, or without one has memory of the device's."""
    if block is not None:
        return block.tensor(dtype, 0, elements)
    return torch.empty(elements, dtype=dtype, device=device)


def direct_reads(file: int, offset: int, nbytes: int, filling: Filling, block: Block, start: int) -> Iterator[Read]:
    """Reads of a run of bytes that go to a block as they are; cut where the file's own chunks are."""
    position, end = offset, offset + nbytes
    while position < end:
        count = min(CHUNK_BYTES - position % CHUNK_BYTES, end - position)
        yield Read(file, position, count, filling, block.view(start + position - offset, count))
        position += count


def copy_staged(part: torch.Tensor, stored: torch.dtype, staged: torch.Tensor, _: torch.Tensor) -> None:
    """Make part of a tensor of bytes that are as they were stored."""
    copy_to(part, staged.view(stored).view(part.shape))
