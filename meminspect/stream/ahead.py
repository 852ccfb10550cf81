"""Reads a mapped checkpoint ahead: its pages come before anybody touches them, and not one fault at a time.

A page that is touched for the first time costs a fault, and on a disk a wait for those around it. Several threads share
them. They read a byte of each page: one fault maps the sixteen pages around it, while MADV_POPULATE_READ, which looks
at each page by itself, takes twice as long (measured on Linux 6.18).
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import mmap
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, Protocol

import torch

from meminspect.errors import StreamError
from meminspect.staging import READ_AHEADS, default_threads
from meminspect.text import shown

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Onlooker", "read_ahead", "touch_pages"]

_MADV_POPULATE_READ: Final = 22  # Linux 5.14; include/uapi/asm-generic/mman-common.h
_MADV_WILLNEED: Final = 3  # everywhere
_libc = ctypes.CDLL(None, use_errno=True)


class Onlooker(Protocol):
    """Whoever watches pages being read ahead. Called from the reading threads, but never by two at once."""

    def begins(self, name: str, storage: torch.UntypedStorage) -> None:
        """A storage's pages are about to be read."""

    def ends(self, name: str, storage: torch.UntypedStorage) -> None:
        """All of them are there."""


def read_ahead(
    model: nn.Module | Mapping[str, torch.Tensor],
    by: str = "populate",
    *,
    observer: Onlooker | None = None,
) -> None:
    """Bring the pages of a mapped model, or state dict, into memory.

    Tensors that have memory of their own already cost nothing.

    Args:
        model: what was loaded with `torch.load(mmap=True)` or by safetensors; or the state dict itself.
        by: "populate" returns when every page is there, brought by as many threads as read at once; "thread" returns
            at once, and a thread brings them in the meantime; "willneed" returns when the kernel has taken note, and
            reads from the disk what it finds right, to be touched later.
        observer: is told of each storage that is populated, in the order in which it begins.

    Raises:
        ValueError: there is no such way.
        StreamError: the last page of a tensor cannot be read: its file has been cut, or its disk fails. From the
            thread it is a warning. (A page amid others that its disk does not give ends the process, as any touch.)
    """
    if by not in READ_AHEADS:
        raise ValueError(f"there is no reading ahead by {by!r}: use one of {', '.join(READ_AHEADS)}")
    storages = _storages(model if isinstance(model, Mapping) else model.state_dict(keep_vars=True))
    if by == "willneed":
        for _, storage in storages:
            _advise(storage.data_ptr(), storage.data_ptr() + storage.nbytes(), _MADV_WILLNEED)
    elif by == "thread":
        _Background(_Populating(storages, None)).start()
    else:
        _Populating(storages, observer).by_threads(default_threads())


def touch_pages(name: str, storage: torch.UntypedStorage) -> None:
    """Make every page of a storage resident; nothing is written to.

    Args:
        name: of a tensor in it.
        storage: on the host.

    Raises:
        StreamError: the last page cannot be read.
    """
    end = storage.data_ptr() + storage.nbytes()
    # The last page first: where a file has been cut, to look at it would be the end of the process.
    refused = _advise(end - 1, end, _MADV_POPULATE_READ) if sys.platform == "linux" else errno.EINVAL
    if refused not in (0, errno.EINVAL):  # which it is to an older kernel, or to another
        raise StreamError(
            f"'{shown(name)}' cannot be read: its file is shorter than when it was mapped, or its disk fails "
            f"({os.strerror(refused)})",
            "see whether the file is still what it was",
        )
    every_byte = torch.empty(0, dtype=torch.uint8).set_(storage)
    every_byte[:: mmap.PAGESIZE].sum()
    every_byte[-1:].sum()


def _storages(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.UntypedStorage]]:
    """Each storage on the host, by the first name that uses it."""
    found: dict[int, tuple[str, torch.UntypedStorage]] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu" and storage.nbytes():
            found.setdefault(storage.data_ptr(), (name, storage))
    return list(found.values())


def _advise(start: int, end: int, advice: int) -> int:
    """Advise the kernel on the pages of addresses (`man 2 madvise`); the number of the error, 0 for none."""
    start &= -mmap.PAGESIZE
    failed = _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
    return ctypes.get_errno() if failed else 0


class _Populating:
    """The storages that nobody has begun, which threads take one after the other."""

    def __init__(self, storages: list[tuple[str, torch.UntypedStorage]], observer: Onlooker | None) -> None:
        self._waiting = iter(storages)
        self._observer = observer
        self._turn = threading.Lock()

    def by_threads(self, threads: int) -> None:
        """Return when all is done, or when all threads have ended after the first failure."""
        with ThreadPoolExecutor(threads, thread_name_prefix="read ahead") as pool:
            pending = [pool.submit(self.carry_out) for _ in range(threads)]
            try:
                finished, _ = wait(pending, return_when=FIRST_EXCEPTION)
            finally:
                self.stop()  # Ctrl-C too
        for future in finished:
            future.result()

    def carry_out(self) -> None:
        """Populate until nothing is left, or until somebody has failed."""
        while (found := self._next()) is not None:
            try:
                touch_pages(*found)
            except StreamError:
                self.stop()
                raise
            if self._observer is not None:
                with self._turn:
                    self._observer.ends(*found)

    def stop(self) -> None:
        """Begin no more."""
        with self._turn:
            self._waiting = iter(())

    def _next(self) -> tuple[str, torch.UntypedStorage] | None:
        with self._turn:
            found = next(self._waiting, None)
            if found is not None and self._observer is not None:
                self._observer.begins(*found)
            return found


class _Background(threading.Thread):
    """One thread for all. It ends with the interpreter, which must not go away under torch's feet."""

    def __init__(self, work: _Populating) -> None:
        super().__init__(name="read ahead", daemon=True)
        self._work = work

    def start(self) -> None:
        """Begin."""
        atexit.register(self._end)
        super().start()

    def run(self) -> None:
        """Touch one after the other; a failure is a warning."""
        try:
            self._work.carry_out()
        except StreamError as error:
            warnings.warn(str(error), stacklevel=1)
        finally:
            atexit.unregister(self._end)

    def _end(self) -> None:
        self._work.stop()
        self.join()
