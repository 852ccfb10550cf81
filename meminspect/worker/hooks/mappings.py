"""Watches mapped files: with `torch.load(mmap=True)` and in safetensors a tensor is a slice of a mapped storage."""

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
    file_at: dict[int, int] = {}  # address of a whole mapping → index of the file

    def watched_from_file(from_file: Callable[..., Any]) -> Callable[..., Any]:
        def call(filename: Any, *args: Any, **kwargs: Any) -> torch.UntypedStorage:
            tracker.recorder.phase("read")
            storage: torch.UntypedStorage = from_file(filename, *args, **kwargs)
            file = tracker.file_index(filename)
            if file >= 0:
                file_at[storage.data_ptr()] = file
                tracker.mapped_whole(file, storage)
            return storage

        return staticmethod(call)

    def watched_getitem(getitem: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: torch.UntypedStorage, index: Any) -> Any:
            if not isinstance(index, slice) or index.stop == (index.start or 0):  # an empty tensor has no memory
                return getitem(self, index)
            file = file_at.get(self.data_ptr(), -1)
            tensor = tracker.at_offset(file, index.start or 0) if file >= 0 else None
            if tensor is None:
                return getitem(self, index)
            part: torch.UntypedStorage = getitem(self, index)
            tracker.mapped(tensor, part)
            return part

        return call

    with (
        replaced(torch.UntypedStorage, "from_file", watched_from_file),
        replaced(torch.UntypedStorage, "__getitem__", watched_getitem),
    ):
        yield
