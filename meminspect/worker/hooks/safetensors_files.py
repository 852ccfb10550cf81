"""Watches safetensors where it reads each tensor into memory of its own, rather than mapping the file.

So it does with `backend="pread"`, whose buffers it wraps, and on the way to CUDA, where they are page-locked and the
tensor is sent on from there. Its default, a mapping, goes through torch's storages and is seen in `mappings`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch

from meminspect.capture.records import Pool
from meminspect.worker.hooks.tracker import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]


class _Reads:
    """The tensors that one call is about to read, in order: each ends where `torch.frombuffer` wraps its bytes."""

    def __init__(self, tracker: Tracker, tensors: list[StoredTensor]) -> None:
        self._tracker = tracker
        self._waiting = iter([tensor for tensor in tensors if tensor.nbytes])  # an empty one is made without reading
        self._current: tuple[int, StoredTensor] | None = None
        self._begin_next()

    def wrapped(self, tensor: torch.Tensor) -> None:
        """One tensor's bytes are there."""
        if self._current is None:
            return
        id_, stored = self._current
        self._tracker.end(id_, Pool.HEAP, stored.name, tensor.untyped_storage())
        self._begin_next()

    def _begin_next(self) -> None:
        stored = next(self._waiting, None)
        self._current = None if stored is None else (self._tracker.begin(Pool.HEAP, stored), stored)


class _Sendings:
    """The tensors that one call is about to send to CUDA, in order: each is there in page-locked memory first."""

    def __init__(self, tracker: Tracker, tensors: list[StoredTensor]) -> None:
        self._tracker = tracker
        self._waiting = iter(tensors)

    def pinned(self, pin: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Memory for the next one."""
        stored = next(self._waiting, None)
        if stored is None:
            return pin()
        self._tracker.recorder.phase("read")
        id_ = self._tracker.begin(Pool.PINNED, stored)
        tensor = pin()
        self._tracker.end(id_, Pool.PINNED, stored.name, tensor.untyped_storage())
        return tensor


class _WatchedFile:
    """Stands in for an open safetensors file and passes everything on to it."""

    def __init__(
        self, file: Any, index: int, tracker: Tracker, calls: list[Any], kind: type[_Reads | _Sendings]
    ) -> None:
        self._file = file
        self._index = index
        self._tracker = tracker
        self._calls = calls
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _WatchedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *exception: object) -> Any:
        return self._file.__exit__(*exception)

    def get_tensor(self, name: str) -> Any:
        stored = self._tracker.at_key(self._index, name)
        self._tracker.recorder.phase("read")
        with self._reading([] if stored is None else [stored]):
            return self._file.get_tensor(name)

    def get_tensors(self) -> Any:
        with self._reading(self._tracker.in_file(self._index)):
            return self._file.get_tensors()

    @contextlib.contextmanager
    def _reading(self, tensors: list[StoredTensor]) -> Iterator[None]:
        self._calls.append(self._kind(self._tracker, tensors))
        try:
            yield
        finally:
            self._calls.pop()


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""
    try:
        import safetensors.torch
    except ImportError:  # an environment of the user's, for pickles
        yield
        return
    calls: list[_Reads | _Sendings] = []

    def watched_open(safe_open: Callable[..., Any]) -> Callable[..., Any]:
        def call(filename: Any, *args: Any, **kwargs: Any) -> Any:
            tracker.recorder.phase("read")
            file = safe_open(filename, *args, **kwargs)
            index = tracker.file_index(filename)
            kind = _Sendings if _is_cuda(args, kwargs) else _Reads if kwargs.get("backend") == "pread" else None
            return file if index < 0 or kind is None else _WatchedFile(file, index, tracker, calls, kind)

        return call

    def watched_frombuffer(frombuffer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = frombuffer(*args, **kwargs)
            if calls and isinstance(calls[-1], _Reads):
                calls[-1].wrapped(tensor)
            return tensor

        return call

    def watched_empty(empty: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(empty)
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            if calls and isinstance(calls[-1], _Sendings) and kwargs.get("pin_memory"):
                return calls[-1].pinned(lambda: empty(*args, **kwargs))
            made: torch.Tensor = empty(*args, **kwargs)
            return made

        return call

    with (
        replaced(safetensors, "safe_open", watched_open),
        replaced(safetensors.torch, "safe_open", watched_open),
        replaced(torch, "frombuffer", watched_frombuffer),
        replaced(torch, "empty", watched_empty),
    ):
        yield


def _is_cuda(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether arguments of `safe_open`, behind the file's name, say that tensors are for CUDA."""
    device = kwargs.get("device", args[1] if len(args) > 1 else "cpu")
    return isinstance(device, int) or str(device).startswith("cuda")
