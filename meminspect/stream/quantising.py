"""Quantises the weights of linear layers in the threads that read them, a chunk at a time.

What is made on the way lies in a thread's own scratch memory: some rows are begun and finished before the next ones.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from meminspect.errors import StreamError
from meminspect.nf4 import NF4_CODES
from meminspect.staging import CHUNK_BYTES, groups_at_once, scratch_bytes
from meminspect.stream.reading import Read, residue
from meminspect.stream.sending import copy_to
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.stream.memory import Memory
    from meminspect.stream.quantised import QuantisedLinear
    from meminspect.stream.reading import Filling

__all__ = ["INT8_ROOM", "NF4_ROOM", "Quantising", "carved", "quantise_int8", "quantise_nf4"]

_TINY: Final = 1e-30  # the scale of what is all zeros
_LARGEST_INT8: Final = 127

# Codes are looked up rather than searched for, which takes eight times as long. -1 to 1 is cut into bins so narrow that
# at most one bound between two codes lies in each: a value's code is its bin's, or the next one above that bound.
_BINS: Final = 32
_CODES: Final = torch.tensor(NF4_CODES)
_BOUNDS: Final = (_CODES[1:] + _CODES[:-1]) / 2
_EDGES: Final = torch.arange(_BINS + 2) / (_BINS // 2) - 1  # the last bin holds 1 alone
_CODE_OF_BIN: Final = torch.bucketize(_EDGES[:-1], _BOUNDS).to(torch.uint8)
_BOUND_IN_BIN: Final = torch.tensor([
    next((float(bound) for bound in _BOUNDS if low <= bound < high), torch.inf)
    for low, high in itertools.pairwise(_EDGES.tolist())
])  # fmt: skip


class Quantising:
    """One layer's weight: its place, and the reads that fill it.

    Args:
        layer: whose weight it is.
        tensor: the weight as it is stored.
        stored: its type.

    Raises:
        StreamError: the weight is no matrix of floating-point numbers, row by row.
    """

    def __init__(self, layer: QuantisedLinear, tensor: StoredTensor, stored: torch.dtype) -> None:
        if not stored.is_floating_point or tensor.strides is not None:
            how = "not row by row" if stored.is_floating_point else f"as {stored}".replace("torch.", "")
            raise StreamError(
                f"'{shown(tensor.name)}' is stored {how}, and cannot be quantised while it is read",
                "name its module in keep= of quantise_linears",
            )
        self.name = tensor.name
        self.tensor = tensor
        self._layer = layer
        self._stored = stored

    def nbytes(self) -> int:
        """What it takes in memory: scales and values."""
        return self._layer.scale.nbytes + self._layer.weight.nbytes

    def place(self, memory: Memory | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory for the values and for their scales, in one block or on a device."""
        weight, scale = self._layer.weight, self._layer.scale
        if memory is None:
            return torch.empty_like(weight, device=device), torch.empty_like(scale, device=device)
        block = memory.block(self.nbytes())
        values = block.tensor(weight.dtype, scale.nbytes, weight.numel()).view(weight.shape)
        return values, block.tensor(scale.dtype, 0, scale.numel()).view(scale.shape)

    def reads(self, filling: Filling, values: torch.Tensor, scale: torch.Tensor) -> Iterator[Read]:
        """The reads that fill its memory, each of whole groups."""
        values = values.view(len(scale), -1)
        kind, group = self._layer.kind, self._layer.group
        group_bytes = group * self._stored.itemsize
        at_once = max(1, CHUNK_BYTES // group_bytes)
        for first in range(0, len(scale), at_once):
            into, scales = values[first : first + at_once], scale[first : first + at_once]
            offset, nbytes = self.tensor.file_offset + first * group_bytes, len(scales) * group_bytes
            deliver = partial(_by_pieces, kind, self._stored, into, scales)
            yield Read(
                self.tensor.storage.file, offset, nbytes, filling, None, deliver,
                residue(offset, self._stored), scratch_bytes(kind, group),
            )  # fmt: skip


def _by_pieces(
    kind: str,
    stored: torch.dtype,
    values: torch.Tensor,
    scale: torch.Tensor,
    staged: torch.Tensor,
    scratch: torch.Tensor,
) -> None:
    """Quantise what has been read, a few groups at a time."""
    groups = staged.view(stored).view(len(scale), -1)
    at_once = min(groups_at_once(groups.shape[1]), len(groups))
    quantise, dtypes = (quantise_int8, INT8_ROOM) if kind == "int8" else (quantise_nf4, NF4_ROOM)
    room = list(carved(scratch, (at_once, groups.shape[1]), dtypes))
    pieces = (torch.split(tensor, at_once) for tensor in (groups, values, scale))
    for piece in zip(*pieces, strict=True):
        left = len(piece[0])
        quantise(*piece, *(room if left == at_once else (part[:left] for part in room)))


INT8_ROOM: Final = (torch.float32, torch.int8)
"""What `quantise_int8` works in: tensors of these types, in the shape of the groups."""


def quantise_int8(
    groups: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, block: torch.Tensor, whole: torch.Tensor
) -> None:
    """Round each group to 127 steps either way.

    Args:
        groups: of shape (groups, elements), of any floating-point type.
        values: takes them as int8, in the same shape; on any device.
        scale: takes a float32 for each group, in shape (groups, 1).
        block: of `INT8_ROOM`, as all that follows.
        whole: to be rounded to.
    """
    step = _largest(block.copy_(groups)).div_(_LARGEST_INT8).clamp_(_TINY)
    whole.copy_(block.div_(step).round_())
    copy_to(scale, step)
    copy_to(values, whole)


NF4_ROOM: Final = (torch.float32, torch.float32, torch.int32, torch.uint8, torch.uint8)
"""What `quantise_nf4` works in."""


def quantise_nf4(groups: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, *room: torch.Tensor) -> None:
    """Find the nearest code of each value; as `quantise_int8`, but two codes of 4 bits go into each byte."""
    block, found, bins, codes, above = room
    step = _largest(block.copy_(groups)).clamp_(_TINY)
    torch.add(block.div_(step), 1, out=found).mul_(_BINS // 2)
    bins.copy_(found).clamp_(0, _BINS)  # what is not a number is in none
    torch.index_select(_CODE_OF_BIN, 0, bins.view(-1), out=codes.view(-1))
    torch.index_select(_BOUND_IN_BIN, 0, bins.view(-1), out=found.view(-1))
    codes.add_(torch.gt(block, found, out=above))
    pairs = codes.view(torch.int16)  # the first code in the low byte: what is stored is little-endian, and so are we
    packed = above.view(-1)[: values.numel()].view(values.shape)
    packed.copy_((pairs << 4) | (pairs >> 8))
    copy_to(scale, step)
    copy_to(values, packed)


def _largest(block: torch.Tensor) -> torch.Tensor:
    """Of each row the largest absolute value; `vector_norm` takes ten times as long."""
    return torch.maximum(block.amax(1, keepdim=True), block.amin(1, keepdim=True).neg_())


def carved(scratch: torch.Tensor, shape: tuple[int, int], dtypes: Sequence[torch.dtype]) -> Iterator[torch.Tensor]:
    """Tensors of one shape side by side in scratch memory; those of wider elements first."""
    start, elements = 0, shape[0] * shape[1]
    for dtype in dtypes:
        end = start + elements * dtype.itemsize
        yield scratch[start:end].view(dtype).view(shape)
        start = end
