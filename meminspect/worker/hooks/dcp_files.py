"""Watches torch.distributed.checkpoint: which chunk it reads next, and the tensors that it fills for the first time.

The chunk itself is read by `torch.load`, which `torch_files` watches.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, replaced
from meminspect.worker.recorder import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


class _Filling:
    """The tensors that chunks are copied into, as far as nobody has reported their memory: it comes with the copies."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._names: set[str] = set()
        self._id = 0

    def begin(self, target: torch.Tensor) -> None:
        stored = self._tracker.slice[1] if self._tracker.slice else None
        if stored is None or (self._tracker.name_of(target) and stored.name not in self._names):
            return
        self._names.add(stored.name)
        recorder = self._tracker.recorder
        recorder.phase("copy")
        self._id = recorder.begin(
            Operation.MATERIALISE, Pool.HEAP, stored.name, target.nbytes,
            detail=describe(str(target.dtype), tuple(target.shape)),
        )  # fmt: skip
        self._tracker.filling = True

    def end(self, target: torch.Tensor) -> None:
        if self._tracker.filling and self._tracker.slice:
            self._tracker.filling = False
            stored = self._tracker.slice[1]
            self._tracker.recorder.end(self._id, Operation.MATERIALISE, Pool.HEAP, stored.name, target.nbytes)
            self._tracker.name(target.untyped_storage(), stored.name)
        if target.nbytes >= CHUNK_BYTES:
            self._tracker.recorder.before_fall(grown=True)  # the chunk goes when the next one is there, or none comes


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends; where nobody has imported the library, there is nothing to watch."""
    files = sys.modules.get("torch.distributed.checkpoint.filesystem")
    planners = sys.modules.get("torch.distributed.checkpoint.default_planner")
    if files is None or planners is None:
        yield
        return
    filling = _Filling(tracker)

    def watched_slice(slice_file: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, file: Any, place: Any) -> Any:
            part = slice_file(self, file, place)
            stored = tracker.at_key(tracker.file_index(file), str(place.offset))
            tracker.slice = None if stored is None else (part, stored)
            return part

        return call

    def watched_resolve(resolve_tensor: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, item: Any) -> torch.Tensor:
            target: torch.Tensor = resolve_tensor(self, item)
            filling.begin(target)
            return target

        return call

    def watched_commit(commit_tensor: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, item: Any, tensor: torch.Tensor) -> None:
            filling.end(tensor)
            commit_tensor(self, item, tensor)

        return call

    try:
        with (
            replaced(files.FileSystemReader, "_slice_file", watched_slice),
            replaced(planners.DefaultLoadPlanner, "resolve_tensor", watched_resolve),
            replaced(planners.DefaultLoadPlanner, "commit_tensor", watched_commit),
        ):
            yield
    finally:
        tracker.slice = None
