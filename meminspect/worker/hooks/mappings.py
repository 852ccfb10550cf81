"""Watches mapped files: with `torch.load(mmap=True)` and in safetensors a tensor is a slice of a mapped storage."""

from __future__ import annotations

import contextlib
import functools
import threading
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
    sends = threading.Event()  # tensors go to a device as they are mapped

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
            if sends.is_set():  # each goes before the next is read
                tracker.recorder.phase("read")
            part: torch.UntypedStorage = getitem(self, index)
            tracker.mapped(tensor, part)
            return part

        return call

    with (
        replaced(torch, "asarray", lambda asarray: _watched_asarray(tracker, asarray, sends)),
        replaced(torch.UntypedStorage, "from_file", watched_from_file),
        replaced(torch.UntypedStorage, "__getitem__", watched_getitem),
    ):
        yield


def _watched_asarray(tracker: Tracker, asarray: Callable[..., Any], sends: threading.Event) -> Callable[..., Any]:
    """Around what sends a mapped tensor of safetensors to a device; to CUDA not since 0.8 (`safetensors_files`)."""

    @functools.wraps(asarray)
    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        source = args[0] if args else None
        if str(kwargs.get("device") or "cpu") == "cpu" or not isinstance(source, torch.UntypedStorage):
            return asarray(*args, **kwargs)  # type: ignore[no-any-return]
        sent: list[torch.Tensor] = []

        def send() -> torch.UntypedStorage:
            sent.append(asarray(*args, **kwargs))
            return sent[0].untyped_storage()

        tracker.recorder.phase("move")
        tracker.sent(source, send)
        sends.set()
        return sent[0]

    return call
