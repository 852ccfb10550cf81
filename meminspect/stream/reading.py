"""Reads planned stretches of files with a few threads, each at positions of its own, into where they belong."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from meminspect.errors import StreamError
from meminspect.stream.memory import Block
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["CHUNK_BYTES", "Read", "default_threads", "read_all"]

CHUNK_BYTES: Final = 8 << 20
"""The most that is read at once, and so what one thread's staging takes; whole huge pages."""

_PATH_LIMIT: Final = 160  # characters of it in an error; its end tells most
_MOST_THREADS: Final = 8  # copying out of the page cache is bound by memory from there on


class Read(NamedTuple):
    """A stretch of a file, and where it goes: straight to `target`, or through staging to whatever `deliver` does."""

    file: int  # index into the files
    offset: int  # bytes from the start of the file
    nbytes: int
    name: str  # a tensor that lies in it
    target: memoryview | None
    deliver: Callable[[torch.Tensor], None] | None = None  # takes the bytes, as uint8; they are overwritten afterwards


def default_threads() -> int:
    """As many as there are processors for us, within reason."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return min(_MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def read_all(
    paths: Sequence[Path], sizes: Sequence[int], reads: Sequence[Read], threads: int, done: Callable[[int], object]
) -> None:
    """Carry out all reads; return when the last is done, or when all threads have ended after the first that failed.

    Args:
        paths: the files.
        sizes: what each was long when its header was read.
        reads: what to read, in the order in which it is begun.
        threads: how many read at once.
        done: called, from any thread, with the number of bytes after each read.

    Raises:
        StreamError: a file cannot be read, or is not what it was when its header was read.
        MemoryError: there is no room.
    """
    staging = threading.local()

    def carry_out(read: Read) -> None:
        if read.target is not None:
            _read_into(descriptors[read.file], paths[read.file], read, read.target)
        elif read.deliver is not None:
            if not hasattr(staging, "block"):
                staging.block = Block(max(each.nbytes for each in reads if each.target is None))
            block: Block = staging.block
            _read_into(descriptors[read.file], paths[read.file], read, block.view(0, read.nbytes))
            read.deliver(block.tensor(torch.uint8, 0, read.nbytes))
        done(read.nbytes)

    with contextlib.ExitStack() as stack:
        descriptors = [_opened(path, size, stack) for path, size in zip(paths, sizes, strict=True)]
        before = [_identity(descriptor) for descriptor in descriptors]
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="stream"))
        # Whatever comes, Ctrl-C too: what has not begun is dropped, and every thread ends before the files are closed.
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        pending = [pool.submit(carry_out, read) for read in reads]
        finished, _ = wait(pending, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
        for path, descriptor, identity in zip(paths, descriptors, before, strict=True):
            if _identity(descriptor) != identity:
                raise StreamError(
                    f"{_words(path)} has changed while it was being read",
                    "load it again",
                )


def _opened(path: Path, size: int, stack: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StreamError(f"{_words(path)} cannot be opened: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    if os.fstat(descriptor).st_size != size:
        raise StreamError(f"{_words(path)} has changed since its header was read", "load it again")
    return descriptor


def _words(path: Path) -> str:
    return shown(str(path), _PATH_LIMIT, keep_end=True)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _read_into(descriptor: int, path: Path, read: Read, target: memoryview) -> None:
    offset, end = read.offset, read.offset + read.nbytes
    while offset < end:
        try:
            count = os.preadv(descriptor, [target[offset - read.offset :]], offset)
        except OSError as error:
            raise StreamError(
                f"{_words(path)} cannot be read at {offset:,}, in '{shown(read.name)}': {error.strerror}"
            ) from error
        if not count:
            raise StreamError(f"{_words(path)} ends at {offset:,}, in the middle of '{shown(read.name)}'")
        offset += count
