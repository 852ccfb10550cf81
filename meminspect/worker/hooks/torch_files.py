"""Watches `torch.load`: each storage that it reads, one by one."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import torch

from meminspect.capture.records import Pool
from meminspect.worker.hooks.tracker import replaced
from meminspect.worker.recorder import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


_COUNT_BYTES: Final = 8


class _WatchedReader:
    """Stands in for torch's zip reader and passes everything on to it.

    torch asks for the record "data/0" where the header knows it as "archive/data/0": the root is the file's own.
    """

    def __init__(self, reader: Any, file: int, tracker: Tracker) -> None:
        tensors = tracker.in_file(file)
        self._reader = reader
        self._file = file
        self._tracker = tracker
        self._root = tensors[0].storage.key.rpartition("data/")[0] if tensors else ""

    def _stored(self, record: str) -> StoredTensor | None:
        return self._tracker.at_key(self._file, self._root + record)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def get_storage_from_record(self, record: str, nbytes: int, dtype: Any) -> torch.Tensor:
        stored = self._stored(record)
        if stored is None:
            unknown: torch.Tensor = self._reader.get_storage_from_record(record, nbytes, dtype)
            return unknown
        id_ = self._tracker.begin(Pool.HEAP, stored)
        tensor: torch.Tensor = self._reader.get_storage_from_record(record, nbytes, dtype)
        self._tracker.end(id_, Pool.HEAP, stored.name, tensor.untyped_storage())
        return tensor


class _WatchedSlice(_WatchedReader):
    """The same for a part of a file that is an archive of one tensor."""

    def __init__(self, reader: Any, stored: StoredTensor, tracker: Tracker) -> None:
        super().__init__(reader, stored.storage.file, tracker)
        self._tensor = stored

    def _stored(self, record: str) -> StoredTensor | None:
        return self._tensor

    def get_storage_from_record(self, record: str, nbytes: int, dtype: Any) -> torch.Tensor:
        tensor = super().get_storage_from_record(record, nbytes, dtype)
        if nbytes >= CHUNK_BYTES:
            self._tracker.recorder.before_fall()  # the part that was read before it goes now
        return tensor


def _watched_fill(tracker: Tracker) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Around what reads a storage of a file from before torch 1.6: the number of its elements, then the elements."""

    def watched(fill: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: torch.UntypedStorage, source: Any, offset: int | None, *args: Any) -> Any:
            file = tracker.file_index(source) if offset is not None else -1
            stored = tracker.at_offset(file, offset + _COUNT_BYTES) if file >= 0 and offset is not None else None
            if stored is None:
                return fill(self, source, offset, *args)
            id_ = tracker.begin(Pool.HEAP, stored)
            filled = fill(self, source, offset, *args)
            tracker.end(id_, Pool.HEAP, stored.name, self)
            return filled

        return call

    return watched


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def watched_reader(reader: Callable[..., Any]) -> Callable[..., Any]:
        def open_watched(source: Any) -> Any:
            if tracker.slice is not None and tracker.slice[0] is source:
                return _WatchedSlice(reader(source), tracker.slice[1], tracker)
            file = tracker.file_index(source)
            return reader(source) if file < 0 else _WatchedReader(reader(source), file, tracker)

        return open_watched

    def watched_load(load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def call(*args: Any, **kwargs: Any) -> Any:
            tracker.recorder.phase("read")
            return load(*args, **kwargs)

        return call

    def watched_restore(restore: Callable[..., Any]) -> Callable[..., Any]:
        """What sends a storage that was read to where `map_location` says."""

        def call(storage: Any, location: Any) -> Any:
            if str(location) == "cpu":
                return restore(storage, location)
            return tracker.sent(storage, lambda: restore(storage, location))

        return call

    with (
        replaced(torch._C, "PyTorchFileReader", watched_reader),
        replaced(torch.serialization, "default_restore_location", watched_restore),
        replaced(torch.UntypedStorage, "_set_from_file", _watched_fill(tracker)),
        replaced(torch, "load", watched_load),
    ):
        yield
