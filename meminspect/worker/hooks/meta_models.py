"""Watches models on meta: when their tensors are given memory, all at once by `to_empty` or one by one in a swap."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, pool_of, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def watched_to_empty(to_empty: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(to_empty)
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            tracker.recorder.phase("build")
            names = _in_conversion_order(self, "") if kwargs.get("recurse", True) else iter(())
            with replaced(torch, "empty_like", lambda empty_like: _naming(tracker, empty_like, names)):
                return to_empty(self, *args, **kwargs)

        return call

    def watched_swap(swap: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(swap)
        def call(t1: torch.Tensor, t2: torch.Tensor) -> None:
            waiting = tracker.take_over(t1)
            if waiting and not t2.is_meta:
                _report_taken_over(tracker, waiting, t2)
            swap(t1, t2)

        return call

    with replaced(nn.Module, "to_empty", watched_to_empty), replaced(torch.utils, "swap_tensors", watched_swap):
        yield


def _in_conversion_order(module: nn.Module, prefix: str) -> Iterator[str]:
    """The names of a module's tensors as `_apply` meets them: its children's before its own."""
    for name, child in module.named_children():
        yield from _in_conversion_order(child, f"{prefix}{name}.")
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield prefix + name


def _naming(tracker: Tracker, empty_like: Callable[..., Any], names: Iterator[str]) -> Callable[..., Any]:
    """`empty_like` as `to_empty` calls it, once for each name."""

    def call(tensor: torch.Tensor, *args: Any, device: Any, **kwargs: Any) -> Any:
        # No pool of the host has the pages before something is written to them.
        pool = Pool.NONE if torch.device(device).type == "cpu" else Pool.VRAM
        name = next(names, "")
        id_ = tracker.recorder.begin(Operation.MATERIALISE, pool, name, _nbytes(tensor), detail=_described(tensor))
        result = empty_like(tensor, *args, device=device, **kwargs)
        tracker.end(id_, pool, name, result.untyped_storage())
        return result

    return call


def _report_taken_over(tracker: Tracker, waiting: str, tensor: torch.Tensor) -> None:
    """The model takes over a tensor that was read, or an empty one that nobody has told of yet."""
    name, recorder = tracker.name_of(tensor), tracker.recorder
    if not name and _nbytes(tensor):
        name, pool = waiting, pool_of(tensor.device)
        recorder.phase("build")  # which module.reset_parameters() does next
        id_ = recorder.begin(Operation.MATERIALISE, pool, name, _nbytes(tensor), detail=_described(tensor))
        tracker.end(id_, pool, name, tensor.untyped_storage())
    recorder.done(Operation.ASSIGN, Pool.NONE, name or waiting, _nbytes(tensor))


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.dtype.itemsize * tensor.numel()


def _described(tensor: torch.Tensor) -> str:
    return describe(str(tensor.dtype), tuple(tensor.shape))
