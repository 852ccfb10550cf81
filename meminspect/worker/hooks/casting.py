"""Watches new tensors made out of old ones: casts by `Tensor.to` and slices joined by `torch.cat`."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch

from meminspect.worker.hooks.tracker import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def watched_to(to: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(to)
        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            wanted = (value.dtype if isinstance(value, torch.Tensor) else value for value in (*args, *kwargs.values()))
            dtype = next((value for value in wanted if isinstance(value, torch.dtype)), self.dtype)
            name = tracker.name_of(self) if dtype != self.dtype or kwargs.get("copy") else ""
            if not name:
                return to(self, *args, **kwargs)  # type: ignore[no-any-return]
            return tracker.made("cast", name, dtype, tuple(self.shape), lambda: to(self, *args, **kwargs))

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
            return tracker.made("merge", name, pieces[0].dtype, tuple(shape), lambda: cat(tensors, dim, **kwargs))

        return call

    with replaced(torch.Tensor, "to", watched_to), replaced(torch, "cat", watched_cat):
        yield
