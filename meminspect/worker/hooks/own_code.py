"""Watches what code of the user's own does beside loading: models that it builds, and casts in a word (`half()`).

A recipe's model is built by us, and every parameter's factory is known beforehand. Here a parameter is first seen when
its module registers it, under the module's class; its full name is known when a state dict is loaded into the model.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import Form, describe, pool_of, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.discovery import DiscoveringTracker

__all__ = ["OWN_CODE", "watch"]

OWN_CODE: Final = "script"
"""The phase in which nothing is done that we know of."""

_CASTS: Final = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}


@contextlib.contextmanager
def watch(tracker: DiscoveringTracker) -> Iterator[None]:
    """Watch until the context ends; to be entered behind the other hooks, so that a phase ends with its call."""
    with contextlib.ExitStack() as stack:
        for registers in ("register_parameter", "register_buffer"):
            stack.enter_context(replaced(nn.Module, registers, functools.partial(_registering, tracker)))
        for name, dtype in _CASTS.items():
            stack.enter_context(replaced(torch.Tensor, name, functools.partial(_casting, tracker, dtype)))
        stack.enter_context(replaced(nn.Module, "load_state_dict", functools.partial(_naming, tracker)))
        for owner, name in ((torch, "load"), (nn.Module, "load_state_dict"), (nn.Module, "_apply")):
            stack.enter_context(replaced(owner, name, functools.partial(_phase_of_its_own, tracker)))
        yield


def _registering(tracker: DiscoveringTracker, register: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(register)
    def call(self: nn.Module, name: str, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        result = register(self, name, tensor, *args, **kwargs)
        if isinstance(tensor, torch.Tensor) and tracker.recorder.enabled and not tensor.is_meta:
            _report_registered(tracker, f"{type(self).__name__}.{name}", tensor)
        return result

    return call


def _report_registered(tracker: DiscoveringTracker, name: str, tensor: torch.Tensor) -> None:
    """Of a tensor that is known the model takes the memory over; of another it is new."""
    try:
        storage = tensor.untyped_storage()
        nbytes, known = storage.nbytes(), tracker.name_of(tensor)
    except (RuntimeError, NotImplementedError):  # a subclass without storage
        return
    recorder = tracker.recorder
    if known:
        recorder.done(Operation.ASSIGN, Pool.NONE, known, tensor.nbytes)
    elif nbytes and not tracker.is_filling(tensor):
        pool, detail = pool_of(tensor.device), describe(str(tensor.dtype), tuple(tensor.shape))
        recorder.phase("build")
        id_ = recorder.begin(Operation.MATERIALISE, pool, name, nbytes, detail=detail)
        tracker.end(id_, pool, name, storage)
        tracker.registered(id_, tensor)


def _casting(tracker: DiscoveringTracker, dtype: torch.dtype, cast: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(cast)
    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = "" if self.dtype == dtype or self.is_meta else tracker.name_of(self)
        if not name:
            return cast(self, *args, **kwargs)  # type: ignore[no-any-return]
        whole = self.nbytes == self.untyped_storage().nbytes()
        form = Form.of(self)._replace(dtype=dtype)
        return tracker.made("cast", name, form, lambda: cast(self, *args, **kwargs), falls=whole)

    return call


def _naming(tracker: DiscoveringTracker, load_state_dict: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_state_dict)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tracker.recorder.phase("build")
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            tracker.named(name, tensor)
        return load_state_dict(self, *args, **kwargs)

    return call


def _phase_of_its_own(tracker: DiscoveringTracker, function: Callable[..., Any]) -> Callable[..., Any]:
    """What comes after a call is no longer the phase that it was in; the calls inside it are part of it."""
    inside = threading.local()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if getattr(inside, "call", False):
            return function(*args, **kwargs)
        inside.call = True
        try:
            return function(*args, **kwargs)
        finally:
            inside.call = False
            tracker.recorder.phase(OWN_CODE)

    return call
