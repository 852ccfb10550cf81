"""Watches new tensors made out of old ones: casts by `Tensor.to` and slices joined by `torch.cat`."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, replaced
from meminspect.worker.recorder import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def materialising(
        phase: str, name: str, dtype: torch.dtype, shape: tuple[int, ...], make: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        recorder = tracker.recorder
        recorder.phase(phase)
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        id_ = recorder.begin(Operation.MATERIALISE, Pool.HEAP, name, nbytes, detail=describe(str(dtype), shape))
        result = make()
        tracker.end(id_, Pool.HEAP, name, result.untyped_storage())
        if nbytes >= SMALL_BYTES:
            recorder.before_fall()  # its sources are dropped next
        return result

    def watched_to(to: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(to)
        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            wanted = (value.dtype if isinstance(value, torch.Tensor) else value for value in (*args, *kwargs.values()))
            dtype = next((value for value in wanted if isinstance(value, torch.dtype)), self.dtype)
            name = tracker.name_of(self) if dtype != self.dtype else ""
            if not name:
                return to(self, *args, **kwargs)  # type: ignore[no-any-return]
            return materialising("cast", name, dtype, tuple(self.shape), lambda: to(self, *args, **kwargs))

        return call

    def watched_cat(cat: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(cat)
        def call(tensors: Any, dim: int = 0, **kwargs: Any) -> torch.Tensor:
            pieces = list(tensors)
            name = tracker.name_of(pieces[0]) if pieces else ""
            if not name:
                return cat(tensors, dim, **kwargs)  # type: ignore[no-any-return]
            shape = list(pieces[0].shape)
            shape[dim] = sum(piece.shape[dim] for piece in pieces)
            return materialising("merge", name, pieces[0].dtype, tuple(shape), lambda: cat(tensors, dim, **kwargs))

        return call

    with replaced(torch.Tensor, "to", watched_to), replaced(torch, "cat", watched_cat):
        yield
