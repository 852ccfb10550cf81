"""Hooks around the real functions that loading code calls: they watch, and never do the work themselves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from torch.utils._device import _device_constructors

from meminspect.worker.hooks import (
    casting,
    dcp_files,
    derived,
    fast_loaders,
    mappings,
    meta_models,
    modules,
    numpy_files,
    offloading,
    quantising,
    safetensors_files,
    streaming,
    torch_files,
    transformers_models,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["installed"]


@contextlib.contextmanager
def installed(tracker: Tracker) -> Iterator[None]:
    """Watch all that loads, copies, casts and quantises while the context lasts.

    Where attribution is asked for, every operation is: a library makes tensors of tensors in ways that no recipe has.
    """
    _device_constructors()  # torch lists them once in a process: with ours among them, torch.device("meta") is nothing
    with contextlib.ExitStack() as stack:
        stack.callback(tracker.forget_model)
        for hook in (torch_files, dcp_files, numpy_files, mappings, safetensors_files, streaming, modules, meta_models):
            stack.enter_context(hook.watch(tracker))
        if tracker.attribution is None:
            stack.enter_context(casting.watch(tracker))
            stack.enter_context(quantising.watch(tracker))
        else:
            stack.enter_context(transformers_models.watch(tracker))
            stack.enter_context(fast_loaders.watch(tracker))
            stack.enter_context(offloading.watch(tracker))
            stack.enter_context(derived.watch(tracker, tracker.attribution))
        yield
