"""Watches fastsafetensors and Run:ai's Model Streamer, whose memory is made in C++, where no hook of torch sees it."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends; what is not installed is not watched."""
    with contextlib.ExitStack() as stack:
        for package, watched in (("fastsafetensors", _fastsafetensors), ("runai_model_streamer", _runai)):
            with contextlib.suppress(ImportError):
                __import__(package)
                stack.enter_context(watched(tracker, sys.modules[package]))
        yield


class _Waiting:
    """The tensors that one call reads, all at once: each ends where it is handed out."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._begun: dict[str, tuple[int, StoredTensor]] = {}

    def begin(self, files: Iterable[str]) -> None:
        """Files are about to be read."""
        self._tracker.recorder.phase("read")
        for file in files:
            for stored in self._tracker.in_file(self._tracker.file_index(file)):
                self._begun[stored.name] = self._tracker.begin(Pool.HEAP, stored), stored

    def end(self, name: str) -> int:
        """One is there; returns its event's id, 0 where nobody waits for it."""
        id_, stored = self._begun.pop(name, (0, None))
        if stored is not None:
            self._tracker.recorder.end(id_, Operation.MATERIALISE, Pool.HEAP, name, stored.storage.nbytes)
        return id_


@contextlib.contextmanager
def _runai(tracker: Tracker, package: Any) -> Iterator[None]:
    waiting = _Waiting(tracker)

    def watched_stream(stream_files: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, paths: list[str], *args: Any, **kwargs: Any) -> Any:
            waiting.begin(paths)
            return stream_files(self, paths, *args, **kwargs)

        return call

    def watched_get_tensors(get_tensors: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in get_tensors(self):
                id_, storage = waiting.end(name), tensor.untyped_storage()
                if tracker.attribution is not None:
                    tracker.attribution.found(storage.data_ptr())
                tracker.follow(id_, Pool.HEAP, name, storage)
                yield name, tensor

        return call

    streamer = package.SafetensorsStreamer
    with (
        replaced(streamer, "stream_files", watched_stream),
        replaced(streamer, "get_tensors", watched_get_tensors),
    ):
        yield


@contextlib.contextmanager
def _fastsafetensors(tracker: Tracker, package: Any) -> Iterator[None]:
    waiting, buffers = _Waiting(tracker), _Buffers(tracker)

    def watched_open(init: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, filenames: list[str], *args: Any, **kwargs: Any) -> None:
            waiting.begin(filenames)
            init(self, filenames, *args, **kwargs)

        return call

    def watched_get_tensor(get_tensor: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, name: str) -> torch.Tensor:
            tensor: torch.Tensor = get_tensor(self, name)
            buffers.hold(waiting.end(name), name, tensor)
            return tensor

        return call

    opener = package.fastsafe_open
    with replaced(opener, "__init__", watched_open), replaced(opener, "get_tensor", watched_get_tensor):
        yield


class _Buffers:
    """The buffers of whole files: each goes with the last tensor that looks at it."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._held: dict[int, list[tuple[int, str, int]]] = defaultdict(list)  # address → event, tensor, bytes
        self._users: Counter[int] = Counter()

    def hold(self, id_: int, name: str, tensor: torch.Tensor) -> None:
        """A tensor looks at a buffer."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        self._held[address].append((id_, name, tensor.nbytes))
        self._users[address] += 1
        self._tracker.name_view(tensor, name)
        if self._tracker.attribution is not None:
            self._tracker.attribution.named(tensor.nbytes)
        weakref.finalize(storage, self._let_go, address)

    def _let_go(self, address: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            for id_, name, nbytes in self._held.pop(address):
                self._tracker.recorder.release(id_, Pool.HEAP, name, nbytes)
