"""Compares the loaded model with the checkpoint's bytes, without leaving a mark on memory or page cache.

Each tensor is read again from its file, a few MiB at a time, and cast as the strategy was to cast it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import torch

from meminspect.sampling.page_cache import cached_bytes

if TYPE_CHECKING:
    from torch import nn

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["verify"]

_CHUNK_BYTES: Final = 4 << 20


def verify(model: nn.Module, task: LoadTask) -> dict[str, object]:
    """Compare every tensor; returns the counts of the JSON contract's `tensors`, and the names of the wrong ones."""
    loaded = dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)))
    mismatched = []
    files = [os.open(file.path, os.O_RDONLY) for file in task.checkpoint.files]
    for descriptor in files:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: it would warm what we do not drop
    try:
        for name, pieces in task.pieces.items():
            tensor = loaded.get(name)
            if tensor is not None and not _matches(tensor.detach(), task, pieces, files):
                mismatched.append(name)
    finally:
        for descriptor in files:
            os.close(descriptor)
    missing = [name for name in loaded if name not in task.pieces]
    unexpected = [name for name in task.pieces if name not in loaded]
    return {
        "expected": len(task.pieces),
        "verified": len(task.pieces) - len(mismatched) - len(unexpected),
        "mismatched": len(mismatched),
        "missing": len(missing),
        "unexpected": len(unexpected),
        "names": {
            "mismatched": _first(mismatched),
            "missing": _first(missing),
            "unexpected": _first(unexpected),
        },
    }


def _first(names: list[str]) -> list[str]:
    """A few names, none longer than anybody reads: a header may hold one of megabytes."""
    return [name[:200] for name in names[:20]]


def _matches(tensor: torch.Tensor, task: LoadTask, pieces: tuple[StoredTensor, ...], files: list[int]) -> bool:
    if tensor.device.type == "meta":
        return False
    dim = task.split_dims.get(pieces[0].name)
    if len(pieces) == 1 or dim is None:
        return _equal(tensor, pieces[0], files)
    start = 0
    for piece in pieces:
        part = tensor.narrow(dim, start, piece.shape[dim])
        if not _equal(part, piece, files):
            return False
        start += piece.shape[dim]
    return start == tensor.shape[dim]


def _equal(tensor: torch.Tensor, stored: StoredTensor, files: list[int]) -> bool:
    if tuple(tensor.shape) != stored.shape:
        return False
    dtype = getattr(torch, stored.dtype)
    descriptor = files[stored.storage.file]
    if stored.strides is not None:
        extent = 1 + sum((size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True))
        if not stored.elements:
            return True
        whole = torch.frombuffer(_read(descriptor, stored.file_offset, extent * dtype.itemsize), dtype=dtype)
        return _same(tensor, whole.as_strided(stored.shape, stored.strides).to(tensor.dtype))
    # Row by row of a [rows, elements] view, as many rows at a time as fit into the buffer.
    flat = tensor.is_contiguous() or tensor.dim() < 2 or not stored.elements
    rows = tensor.reshape(-1, 1) if flat else tensor.reshape(tensor.shape[0], -1)
    width = rows.shape[1] * dtype.itemsize
    step = max(1, _CHUNK_BYTES // max(width, 1))
    for row in range(0, rows.shape[0], step):
        part = rows[row : row + step]
        data = _read(descriptor, stored.file_offset + row * width, part.shape[0] * width)
        if not _same(part, torch.frombuffer(data, dtype=dtype).reshape(part.shape).to(tensor.dtype)):
            return False
    return True


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equality of bits, so that NaN equals itself."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _read(descriptor: int, offset: int, nbytes: int) -> bytearray:
    """Read a range; pages that were not in the page cache before are dropped from it again."""
    cached = cached_bytes(descriptor, offset, nbytes) if nbytes else None
    buffer = bytearray(nbytes)
    view, position = memoryview(buffer), offset
    while view:
        count = os.preadv(descriptor, [view], position)
        if not count:
            raise OSError("the file is shorter than its header says")
        view, position = view[count:], position + count
    if cached == 0:
        os.posix_fadvise(descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)
    return buffer
