"""Plans the loading of model-parallel files: every tensor is joined of its slices while they are read.

Tensor by tensor, so that no more of them are begun at once than there are threads.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meminspect.errors import StreamError
from meminspect.staging import CHUNK_BYTES
from meminspect.stream.arrange import (
    Arrangement,
    copy_staged,
    direct_reads,
    flat_tensor,
    torch_dtype,
    wanted_dtype,
)  # fmt: skip
from meminspect.stream.memory import Memory
from meminspect.stream.reading import Read, residue
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from meminspect.checkpoint.model import Checkpoint, StoredTensor
    from meminspect.stream.memory import Block
    from meminspect.stream.reading import Filling

__all__ = ["arrange_slices"]


def arrange_slices(
    checkpoint: Checkpoint, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype | None, device: torch.device
) -> Arrangement:
    """Plan the loading of model-parallel slices, each joined with the others as it is read.

    Args:
        checkpoint: its headers.
        shapes: of the tensors that are wanted, joined.
        dtype: what floating-point tensors become; None to leave them.
        device: where they will be.

    Raises:
        StreamError: slices do not make up the shape, or are of a type that torch does not have.
        MemoryError: the system does not promise so much memory.
    """
    arrangement = Arrangement()
    pieces: dict[str, list[StoredTensor]] = defaultdict(list)
    for tensor in checkpoint.tensors:
        if tensor.name in shapes:
            pieces[tensor.name].append(tensor)
    nbytes = sum(math.prod(shapes[name]) * _itemsize(slices, dtype) for name, slices in pieces.items())
    memory = Memory(nbytes, len(pieces)) if device.type == "cpu" else None
    for name, slices in pieces.items():
        joining = _Joining.of(slices, tuple(shapes[name]), dtype, memory, device)
        arrangement.tensors[name] = joining.whole
        if joining.whole.numel():
            arrangement.fill(slices[:1], joining.reads)
    return arrangement


def _itemsize(slices: Sequence[StoredTensor], dtype: torch.dtype | None) -> int:
    return wanted_dtype(torch_dtype(slices[0]), dtype).itemsize


class _Joining(NamedTuple):
    """A tensor that is made of slices."""

    slices: Sequence[StoredTensor]
    dim: int | None  # along which they join; None where the first is the whole
    stored: torch.dtype
    whole: torch.Tensor
    block: Block | None  # that the whole lies in, if it is on the host

    @classmethod
    def of(
        cls,
        slices: Sequence[StoredTensor],
        shape: tuple[int, ...],
        dtype: torch.dtype | None,
        memory: Memory | None,
        device: torch.device,
    ) -> _Joining:
        """Give the whole its memory.

        Raises:
            StreamError: the slices do not make up the shape.
        """
        dim = _split_dim(slices, shape)
        stored = torch_dtype(slices[0])
        wanted, elements = wanted_dtype(stored, dtype), math.prod(list(shape))
        block = memory.block(elements * wanted.itemsize) if memory is not None and elements else None
        whole = flat_tensor(block, elements, wanted, device).view(shape)
        return cls(slices if dim is not None else slices[:1], dim, stored, whole, block)

    def reads(self, filling: Filling) -> Iterator[Read]:
        """What fills it: slices of rows where they belong, all others through staging."""
        first = 0
        for piece in self.slices:
            if self.block is not None and self.stored == self.whole.dtype and not self.dim:
                row_bytes = math.prod(self.whole.shape[1:]) * self.stored.itemsize
                start = first * row_bytes
                yield from direct_reads(piece.storage.file, piece.file_offset, piece.nbytes, filling, self.block, start)
            else:
                part = self.whole if self.dim is None else self.whole.narrow(self.dim, first, piece.shape[self.dim])
                yield from _by_rows(piece, self.stored, part, filling)
            first += 0 if self.dim is None else piece.shape[self.dim]


def _split_dim(slices: Sequence[StoredTensor], shape: tuple[int, ...]) -> int | None:
    """Along which dimension slices join; None where the first is the whole."""
    same = all(piece.shape == slices[0].shape and piece.strides is None for piece in slices)
    if same and slices[0].shape == shape:
        return None
    if same and len(slices[0].shape) == len(shape):
        odd = [dim for dim, size in enumerate(slices[0].shape) if size != shape[dim]]
        if len(odd) == 1 and slices[0].shape[odd[0]] * len(slices) == shape[odd[0]]:
            return odd[0]
    raise StreamError(
        f"'{shown(slices[0].name)}' is {list(slices[0].shape)} in each of {len(slices)} slices, "
        f"which do not join to the model's {list(shape)}"
    )


def _by_rows(piece: StoredTensor, stored: torch.dtype, part: torch.Tensor, filling: Filling) -> Iterator[Read]:
    """Reads of a slice that does not lie in one piece in the whole: some rows at a time."""
    part = part if part.dim() else part.view(1)
    row_bytes = piece.nbytes // len(part)
    rows_at_once = max(1, CHUNK_BYTES // row_bytes)
    for first in range(0, len(part), rows_at_once):
        rows = min(rows_at_once, len(part) - first)
        offset = piece.file_offset + first * row_bytes
        deliver = partial(copy_staged, part[first : first + rows], stored)
        yield Read(piece.storage.file, offset, rows * row_bytes, filling, None, deliver, residue(offset, stored))
