"""Watches every operation of torch, in all threads: a library's code makes tensors in ways that no recipe of ours has.

What is made of tensors with names goes by the first one's name, and its event lists the others: that is how a fusion
shows its sources. Memory that nobody has a name for yet waits for one: a copy into it, or a place in the model, gives
it; what waits in vain is unattributed, and told with the line of Python that made it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from meminspect.text import listed
from meminspect.worker.hooks.tracker import Form, describe, replaced
from meminspect.worker.resident import plain_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["Attribution", "watch"]

_PHASES: Final = {"cat": "merge", "stack": "merge", "copy_": "copy"}
_TOLD_BEFORE: Final = ("_to_copy", "clone")
_EMPTY: Final = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")  # no values, no pages yet
_OURS: Final = ("meminspect", "torch", "concurrent", "threading", "contextlib")
_MOST_SITES: Final = 8


class _Waiting(NamedTuple):
    """Memory that has no name yet."""

    nbytes: int
    site: str  # the line that made it
    written: bool  # what has never been written to has no pages
    end: object  # a weak reference to the storage


class Attribution:
    """How much of what was made has a tensor's name."""

    def __init__(self) -> None:
        self._named_bytes = 0
        self._waiting: dict[int, _Waiting] = {}  # by address
        self._sites: Counter[str] = Counter()
        self._lock = threading.RLock()  # a storage's end may strike in here

    def named(self, nbytes: int) -> None:
        """Memory has come into being under a name, or has found it in the model."""
        with self._lock:
            self._named_bytes += nbytes

    def waits(self, storage: torch.UntypedStorage, *, written: bool) -> None:
        """Memory has come into being that has no name yet."""
        address = storage.data_ptr()
        end = weakref.ref(storage, lambda _: self._gone(address))
        with self._lock:
            self._waiting[address] = _Waiting(storage.nbytes(), _site(), written, end)

    def found(self, address: int) -> bool:
        """Whether memory at an address waited for a name, which it has now."""
        with self._lock:
            return self._waiting.pop(address, None) is not None

    def written(self, address: int) -> None:
        """Memory is written to, under no name."""
        with self._lock:
            waiting = self._waiting.get(address)
            if waiting is not None:
                self._waiting[address] = waiting._replace(written=True)

    def _gone(self, address: int) -> None:
        """Memory that waited for a name is gone without one."""
        with self._lock:
            waiting = self._waiting.pop(address, None)
            if waiting is not None and waiting.written:
                self._sites[waiting.site] += waiting.nbytes

    def document(self, model: nn.Module) -> dict[str, Any]:
        """What has a name and what has none, once the model's own tensors have theirs."""
        for tensor in (*model.parameters(), *model.buffers()):
            for storage, _ in _memory(tensor):
                if self.found(storage.data_ptr()):
                    self.named(storage.nbytes())
        for address in list(self._waiting):
            self._gone(address)
        return {
            "named_bytes": self._named_bytes,
            "unattributed_bytes": sum(self._sites.values()),
            "unattributed": [{"site": site, "bytes": nbytes} for site, nbytes in self._sites.most_common(_MOST_SITES)],
        }


class _Deriving(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names what operations make; one for each thread."""

    def __init__(self, tracker: Tracker, attribution: Attribution) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracker = tracker
        self._attribution = attribution
        self._working_ns = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        recorder = self._tracker.recorder
        started_ns, charged_ns, self._working_ns = time.monotonic_ns(), recorder.charged_ns, 0
        try:
            return self._watched(func, args, kwargs or {})
        finally:
            charged_ns = recorder.charged_ns - charged_ns
            recorder.charge_since(started_ns + self._working_ns + charged_ns)

    def _watched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        word = func.overloadpacket.__name__
        phase = _PHASES.get(word)
        names = [] if word in _EMPTY else self._names((args, kwargs))
        if names and phase is not None:
            self._tracker.recorder.phase(phase)
        if not _makes_memory(func):
            return self._written(names, func, args, kwargs)
        if names and word in _TOLD_BEFORE:
            return self._told_before(names, func, args, kwargs)
        result = self._work(func, args, kwargs)
        for storage, detail in _memory(result):
            if names:
                self._tracker.has_made(names[0], storage, f"{detail}{_sources(names)}")
            else:
                self._attribution.waits(storage, written=word not in _EMPTY)
        return result

    def _work(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is watched, whose time is not ours."""
        started_ns = time.monotonic_ns()
        try:
            return func(*args, **kwargs)
        finally:
            self._working_ns += time.monotonic_ns() - started_ns

    def _names(self, values: Any) -> list[str]:
        return list(dict.fromkeys(filter(None, map(self._tracker.name_of, _tensors(values)))))

    def _told_before(self, names: list[str], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A cast, a move or a copy: what it will make is known, and told in case it does not come back."""
        source: torch.Tensor = args[0]
        form = Form.of(source)._replace(
            dtype=kwargs.get("dtype") or source.dtype, device=torch.device(kwargs.get("device") or source.device)
        )
        if form.device.type == "meta":
            return self._work(func, args, kwargs)
        phase = "move" if form.device != source.device else "cast" if form.dtype != source.dtype else "copy"
        return self._tracker.made(phase, names[0], form, lambda: self._work(func, args, kwargs), falls=False)

    def _written(self, names: list[str], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation on memory that exists: a name goes to memory that has waited for one, whose pages come now."""
        result = self._work(func, args, kwargs)
        target: Any = kwargs.get("out", args[0] if args else None)
        for storage, detail in _memory(target):
            address = storage.data_ptr()
            if not names:
                self._attribution.written(address)
            elif self._attribution.found(address) and not self._tracker.name_of(target):
                self._tracker.has_made(names[0], storage, f"{detail}{_sources(names)}")
        return result


@functools.lru_cache(maxsize=4096)
def _makes_memory(func: Any) -> bool:
    """Whether what an operation returns is neither its argument nor a view of one."""
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is None for one in returns)


def _sources(names: list[str]) -> str:
    return f" from {listed(names)}" if len(names) > 1 else ""  # of hundreds of experts only the first


def _described(tensor: torch.Tensor) -> str:
    return describe(str(tensor.dtype), tuple(tensor.shape))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _memory(value: Any) -> Iterator[tuple[torch.UntypedStorage, str]]:
    """The storages that a result has, each with its tensor's type and shape."""
    for tensor in _tensors(value):
        for part in plain_tensors(tensor):
            if not part.is_meta and part.untyped_storage().nbytes():
                yield part.untyped_storage(), _described(part)


def _site() -> str:
    """The line of Python, outside of torch and of us, that is being executed: ``transformers/modeling_utils.py:12``."""
    frame = sys._getframe(2)
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _OURS:
            path = frame.f_code.co_filename
            _, found, inside = path.rpartition(f"/{package}/")
            return f"{package}/{inside}:{frame.f_lineno}" if found else f"{path}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


@contextlib.contextmanager
def watch(tracker: Tracker, attribution: Attribution) -> Iterator[None]:
    """Watch until the context ends, in this thread and in those of thread pools."""

    def watched_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(submit)
        def call(self: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            def watched(*args: Any, **kwargs: Any) -> Any:
                with _Deriving(tracker, attribution):
                    return work(*args, **kwargs)

            return submit(self, watched, *args, **kwargs)

        return call

    with replaced(ThreadPoolExecutor, "submit", watched_submit), _Deriving(tracker, attribution):
        yield
