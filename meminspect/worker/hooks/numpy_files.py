"""Watches arrays of a mapped file that become tensors, which is how the gguf package hands out a file."""

from __future__ import annotations

import contextlib
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

    def watched_from_numpy(from_numpy: Callable[..., Any]) -> Callable[..., Any]:
        def call(array: Any) -> torch.Tensor:
            tensor: torch.Tensor = from_numpy(array)
            mapping = _mapping(array)
            if mapping is not None:
                tracker.recorder.phase("read")
                offset = mapping.offset + tensor.data_ptr() - mapping.ctypes.data
                stored = tracker.at_offset(tracker.file_index(mapping.filename), offset)
                if stored is not None:
                    tracker.mapped(stored, tensor.untyped_storage())
            return tensor

        return call

    with replaced(torch, "from_numpy", watched_from_numpy):
        yield


def _mapping(array: Any) -> Any:
    """The numpy.memmap of a whole file that an array is a part of; None for any other array."""
    found = None
    while array is not None:
        if getattr(array, "filename", None) is not None:  # parts of a memmap are memmaps too: the outermost counts
            found = array
        array = getattr(array, "base", None)
    return found
