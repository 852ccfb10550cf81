"""Watches our own fast loader and our reading ahead, which tell of themselves: from their threads, one at a time."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import meminspect.stream
from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, pool_of, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from meminspect.stream.reading import Part
    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


class _Watcher:
    """An observer: a tensor is materialised from the begin of its first read to the end of its last."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._begun: dict[int, int] = {}  # event ids, by `id` of the tensor that is filled

    def begins(self, part: Part) -> None:
        recorder, tensor, stored = self._tracker.recorder, part.tensor, part.stored
        recorder.phase("read")
        if tensor.device.type == "cpu":
            recorder.beside_malloc_bytes += tensor.untyped_storage().nbytes()  # it maps its own memory
        self._begun[id(tensor)] = recorder.begin(
            Operation.MATERIALISE,
            _pool(part),
            part.name,
            tensor.untyped_storage().nbytes(),
            detail=describe(str(tensor.dtype), tuple(tensor.shape)),
            file=-1 if stored is None else stored.storage.file,
            offset=-1 if stored is None else stored.file_offset,
        )

    def ends(self, part: Part) -> None:
        id_, tensor = self._begun.pop(id(part.tensor)), part.tensor
        self._tracker.end(id_, _pool(part), part.name, tensor.untyped_storage())

    def drops(self, part: Part) -> None:
        self._tracker.recorder.before_fall(grown=True)

    def assigned(self, name: str, tensor: torch.Tensor) -> None:
        self._tracker.recorder.phase("assign")
        self._tracker.recorder.done(Operation.ASSIGN, Pool.NONE, name, tensor.nbytes)


class _AheadWatcher:
    """An onlooker: a mapped storage is touched while its pages are read ahead."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._begun: dict[str, int] = {}  # event ids

    def begins(self, name: str, storage: torch.UntypedStorage) -> None:
        if self._tracker.is_mapped(storage.data_ptr()):
            self._tracker.recorder.phase("touch")
            self._begun[name] = self._tracker.recorder.begin(Operation.TOUCH, Pool.FILE, name, storage.nbytes())

    def ends(self, name: str, storage: torch.UntypedStorage) -> None:
        id_ = self._begun.pop(name, None)
        if id_ is not None:
            self._tracker.recorder.end(id_, Operation.TOUCH, Pool.FILE, name, storage.nbytes())
            self._tracker.touched.add(storage.data_ptr())


def _pool(part: Part) -> Pool:
    return Pool.PINNED if part.pinned else pool_of(part.tensor.device)


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def observed(watcher: type[_Watcher | _AheadWatcher]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                tracker.filling = True  # what it copies in its threads, it tells of as tensors that come to be
                try:
                    return original(*args, observer=watcher(tracker), **kwargs)
                finally:
                    tracker.filling = False

            return call

        return watched

    stream = meminspect.stream
    with replaced(stream, "load", observed(_Watcher)), replaced(stream, "read_ahead", observed(_AheadWatcher)):
        yield
