"""Watches new tensors made out of old ones: `Tensor.to`, clones, and slices joined by `torch.cat`."""

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
    with (
        replaced(torch.Tensor, "to", lambda to: _watched_to(tracker, to)),
        replaced(torch.Tensor, "clone", lambda clone: _watched_clone(tracker, clone)),
        replaced(torch, "cat", lambda cat: _watched_cat(tracker, cat)),
    ):
        yield


def _watched_to(tracker: Tracker, to: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(to)
    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        form = _wanted(self, (*args, *kwargs.values()))
        phase = _phase(self, form, copies=kwargs.get("copy", False))
        name = tracker.name_of(self) if phase else ""
        if not name:
            return to(self, *args, **kwargs)  # type: ignore[no-any-return]
        storage = self.untyped_storage()
        falls = self.nbytes == storage.nbytes() and not tracker.is_mapped(storage.data_ptr())
        return tracker.made(phase, name, form, lambda: to(self, *args, **kwargs), falls=falls)

    return call


def _watched_clone(tracker: Tracker, clone: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(clone)
    def call(self: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        name = tracker.name_of(self)
        if not name:
            return clone(self, **kwargs)  # type: ignore[no-any-return]
        falls = not tracker.is_mapped(self.untyped_storage().data_ptr())
        return tracker.made("copy", name, Form.of(self), lambda: clone(self, **kwargs), falls=falls)

    return call


def _watched_cat(tracker: Tracker, cat: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(cat)
    def call(tensors: Any, dim: int = 0, **kwargs: Any) -> torch.Tensor:
        pieces = list(tensors)
        name = tracker.name_of(pieces[0]) if pieces else ""
        if not name:
            return cat(tensors, dim, **kwargs)  # type: ignore[no-any-return]
        shape = list(pieces[0].shape)
        shape[dim] = sum(piece.shape[dim] for piece in pieces)
        form = Form.of(pieces[0])._replace(shape=tuple(shape))
        falls = not tracker.is_mapped(pieces[0].untyped_storage().data_ptr())
        return tracker.made("merge", name, form, lambda: cat(tensors, dim, **kwargs), falls=falls)

    return call


def _wanted(tensor: torch.Tensor, arguments: tuple[Any, ...]) -> Form:
    """What `Tensor.to` makes with these arguments, by position or by name."""
    dtype, device = tensor.dtype, tensor.device
    for value in arguments:
        if isinstance(value, torch.Tensor):
            dtype, device = value.dtype, value.device
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device)):
            device = torch.device(value)
    return Form(dtype, device, tuple(tensor.shape))


def _phase(tensor: torch.Tensor, form: Form, *, copies: bool) -> str:
    """What is done to a tensor that takes a form; nothing where it has it already, or none with memory."""
    if form.device.type == "meta":
        return ""
    if form.device.type != tensor.device.type:
        return "move"
    if form.dtype != tensor.dtype:
        return "cast"
    return "copy" if copies else ""
