"""Compares the loaded model with the checkpoint's bytes, without leaving a mark on memory or page cache.

Each tensor is read again from its file, a few MiB at a time, and cast as the strategy was to cast it. A quantised
weight is dequantised likewise, and may be as far from the file's as its quantisation says. What is left on disk is read
as a pass of the model would read it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from meminspect.page_cache import cached_bytes, forget, without_read_ahead
from meminspect.strategies.quantisation import quantised, scale_name
from meminspect.worker import library_quantised
from meminspect.worker.offloaded import offloaded
from meminspect.worker.quantised import QuantisedView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies import Strategy
    from meminspect.strategies.task import LoadTask

__all__ = ["verify"]

_CHUNK_BYTES: Final = 4 << 20
_LAZY: Final = {"conj": torch.conj, "neg": torch.neg}  # as `StoredTensor.lazy` names them
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def verify(model: nn.Module, task: LoadTask, strategy: Strategy | None = None) -> dict[str, object]:
    """Compare every tensor; returns the counts of the JSON contract's `tensors`, and the names of the wrong ones.

    Args:
        model: what has been loaded.
        task: what was to be loaded.
        strategy: how; it says what is quantised, and what the model has beyond the checkpoint. None: nothing.
    """
    loaded: dict[str, torch.Tensor | QuantisedView] = dict(
        (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    )
    if strategy is not None:
        for parameter in strategy.adds(task):
            loaded.pop(parameter.name, None)
        if strategy.own_floor_bytes is not None:
            built = getattr(torch, task.main_dtype)
            for name, parameter in quantised(task).items():
                view = library_quantised.view(loaded.get(name), parameter, built)
                if view is not None:
                    loaded[name] = view
        if strategy.quantises:
            _view_quantised(loaded, task, None if strategy.casts else getattr(torch, strategy.built_dtype(task)))
    on_disk = offloaded(model)
    mismatched = [
        name
        for name, pieces in task.pieces.items()
        if (tensor := on_disk[name]() if name in on_disk else loaded.get(name)) is not None
        and not _matches(tensor, task, pieces)
    ]
    unsaved = set(_unsaved(model))
    missing = [name for name in loaded if name not in task.pieces and name not in unsaved and _is_saved(name, task)]
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


def _unsaved(model: nn.Module) -> Iterator[str]:
    """The buffers that no state dict holds."""
    for path, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            yield f"{path}.{name}" if path else name


def _is_saved(name: str, task: LoadTask) -> bool:
    """Whether a state dict holds a tensor of the model; what the architecture does not know ought to be in one."""
    return name not in task.parameters or task.parameters[name].saved


def _first(names: list[str]) -> list[str]:
    """A few names, none longer than anybody reads: a header may hold one of megabytes."""
    return [name[:200] for name in names[:20]]


def _view_quantised(loaded: dict[str, torch.Tensor | QuantisedView], task: LoadTask, built: torch.dtype | None) -> None:
    """Put a view in place of each quantised weight and its scales; where the scales are missing, none."""
    for name, parameter in quantised(task).items():
        values, scale = loaded.get(name), loaded.pop(scale_name(name), None)
        if isinstance(values, torch.Tensor) and isinstance(scale, torch.Tensor):
            loaded[name] = QuantisedView.whole(values, scale, parameter, built)


def _matches(tensor: torch.Tensor | QuantisedView, task: LoadTask, pieces: tuple[StoredTensor, ...]) -> bool:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach()
        if tensor.device.type == "meta":
            return False
    elif not tensor.is_sound():
        return False
    if pieces[0].chunk is not None:
        return all(_equal(_cut(tensor, piece), piece, task) for piece in pieces)
    dim = task.split_dims.get(pieces[0].name)
    if len(pieces) == 1 or dim is None:
        return _equal(tensor, pieces[0], task)
    start = 0
    for piece in pieces:
        part = tensor.narrow(dim, start, piece.shape[dim])
        if not _equal(part, piece, task):
            return False
        start += piece.shape[dim]
    return start == tensor.shape[dim]


def _cut(tensor: torch.Tensor | QuantisedView, piece: StoredTensor) -> torch.Tensor | QuantisedView:
    """The part of a tensor that a chunk is; an empty one where the tensor has another shape."""
    if piece.chunk is None or not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != piece.chunk.whole_shape:
        return torch.empty(0)
    return tensor[tuple(slice(at, at + length) for at, length in zip(piece.chunk.start, piece.shape, strict=True))]


def _equal(tensor: torch.Tensor | QuantisedView, stored: StoredTensor, task: LoadTask) -> bool:
    if tuple(tensor.shape) != stored.shape:
        return False
    if not stored.elements:
        return True
    strides = stored.strides or _row_major(stored.shape)
    # One at a time: a checkpoint may have more files than a process may have open.
    file = task.checkpoint.files[stored.storage.file]
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        without_read_ahead(descriptor)  # it would warm what we do not drop
        source = _Source(descriptor, getattr(torch, stored.dtype), file.big_endian, stored.lazy)
        return _equal_part(tensor, strides, stored.file_offset, source)
    finally:
        os.close(descriptor)


class _Source(NamedTuple):
    """Where bytes come from, and what they are."""

    descriptor: int
    dtype: torch.dtype
    big_endian: bool
    lazy: tuple[str, ...]


def _equal_part(tensor: torch.Tensor | QuantisedView, strides: tuple[int, ...], offset: int, source: _Source) -> bool:
    """Compare a view of the file, cut along its widest stride until a piece fits into the buffer."""
    for dim, stride in enumerate(strides):
        # One element on disk for many: they must be equal among themselves.
        if stride == 0 and tensor.shape[dim] > 1 and isinstance(tensor, torch.Tensor):
            first = tensor.narrow(dim, 0, 1)
            rest = strides[:dim] + strides[dim + 1 :]
            return _same(tensor, first.expand_as(tensor)) and _equal_part(first.squeeze(dim), rest, offset, source)
    size = source.dtype.itemsize
    extent = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, strides, strict=True))
    if extent * size <= _CHUNK_BYTES:
        data = _elements(_read(source.descriptor, offset, extent * size), source).as_strided(tensor.shape, strides)
        for kind in source.lazy:
            data = _LAZY[kind](data)
        return _same(tensor.cpu(), data.to(tensor.dtype)) if isinstance(tensor, torch.Tensor) else tensor.matches(data)
    dim = max(range(tensor.dim()), key=lambda dim: strides[dim] if tensor.shape[dim] > 1 else -1)
    step = max(1, _CHUNK_BYTES // (strides[dim] * size))
    if step >= tensor.shape[dim]:  # the other dimensions overlap it: halve, and the extent shrinks in the end
        step = (tensor.shape[dim] + 1) // 2
    length = tensor.shape[dim]
    return all(
        _equal_part(
            tensor.narrow(dim, start, min(step, length - start)), strides, offset + start * strides[dim] * size, source
        )
        for start in range(0, length, step)
    )


def _elements(raw: bytearray, source: _Source) -> torch.Tensor:
    if source.big_endian:
        size = source.dtype.itemsize // (2 if source.dtype.is_complex else 1)  # two numbers each
        turned = torch.frombuffer(raw, dtype=torch.uint8).view(-1, size).flip(1).contiguous()
        return turned.view(-1).view(source.dtype)
    return torch.frombuffer(raw, dtype=source.dtype)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equality of bits, so that NaN equals itself; without a copy of either."""
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.resolve_conj().resolve_neg()  # itself, unless something is yet to be done to it
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def _read(descriptor: int, offset: int, nbytes: int) -> bytearray:
    """Read a range; pages that were not in the page cache before are dropped from it again."""
    cached = cached_bytes(descriptor, offset, nbytes) if nbytes else None
    buffer = bytearray(nbytes)
    view = memoryview(buffer)
    os.lseek(descriptor, offset, os.SEEK_SET)
    while view:
        count = os.readv(descriptor, [view])  # not every system has preadv
        if not count:
            raise OSError("the file is shorter than its header says")
        view = view[count:]
    if cached == 0:
        with contextlib.suppress(OSError):
            forget(descriptor, offset, nbytes)
    return buffer
