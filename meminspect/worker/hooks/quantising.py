"""Watches memory that is made in a tensor's likeness: by `Tensor.new_empty`, and by `torch.bucketize` for its codes."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch

from meminspect.worker.hooks.tracker import Form, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def watched_new_empty(new_empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(new_empty)
        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            name = tracker.name_of(self)
            if not name:
                return new_empty(self, *args, **kwargs)
            like = new_empty(self, *args, **{**kwargs, "device": "meta"})
            form = Form.of(like)._replace(device=torch.device(kwargs.get("device", self.device)))
            return tracker.made("quantise", name, form, lambda: new_empty(self, *args, **kwargs), filled=False)

        return call

    def watched_bucketize(bucketize: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(bucketize)
        def call(values: torch.Tensor, boundaries: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            name = tracker.name_of(values) if isinstance(values, torch.Tensor) else ""
            if not name:
                return bucketize(values, boundaries, **kwargs)
            form = Form.of(values)._replace(dtype=torch.int32 if kwargs.get("out_int32") else torch.int64)
            return tracker.made("cast", name, form, lambda: bucketize(values, boundaries, **kwargs), falls=False)

        return call

    with (
        replaced(torch.Tensor, "new_empty", watched_new_empty),
        replaced(torch, "bucketize", watched_bucketize),
    ):
        yield
