"""How much of a file is in the page cache, and putting it there or taking it out.

Sources: `man 2 cachestat` (Linux 6.5), `man 2 mincore`, `man 2 posix_fadvise`. Standard library only: the
worker imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import stat
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "OpenFile", "Residency", "cached_bytes", "cached_fraction", "evict", "forget", "warm", "without_read_ahead",
]  # fmt: skip

_CACHESTAT: Final = 451  # on every architecture but alpha: include/uapi/asm-generic/unistd.h
_OVERLAYFS: Final = 0x794C7630  # include/uapi/linux/magic.h
_ZFS: Final = 0x2FC12FC1
_STATFS_BYTES: Final = 256  # more than any architecture's struct statfs, which begins with the type

_PAGE: Final = mmap.PAGESIZE
_WINDOW: Final = 1 << 30  # mapped at a time, so that mincore's answer stays at 256 KiB
_NOT_RESIDENT: Final = bytes(range(0, 256, 2))  # mincore defines the lowest bit only
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_BUFFER_BYTES: Final = 1 << 20
_EVICTIONS: Final = 2  # what another processor was just adding is only dropped by the second


class Residency(NamedTuple):
    """How much of a file is in the page cache.

    `fraction` is from 0 to 1, or None where it cannot be known; then `reason` says why.
    """

    fraction: float | None
    reason: str


class OpenFile:
    """A file that is asked again and again: held open, since opening it anew may be a trip over a network.

    Raises:
        OSError: it cannot be opened or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def cached_bytes(self) -> int | None:
        """Bytes of it that are in the page cache; None where that cannot be known: `cached_fraction` says why."""
        return cached_bytes(self._descriptor, 0, os.fstat(self._descriptor).st_size)


def cached_bytes(descriptor: int, offset: int, length: int) -> int | None:
    """Bytes of a range that are in the page cache, in whole pages; the range ends at the end of the file at the latest.

    Args:
        descriptor: a regular file, open for reading.
        offset: where the range begins; not negative.
        length: its bytes; an empty range has none cached.

    Returns:
        At most `length`; None where the kernel does not tell (see `cached_fraction` for the reasons).

    Raises:
        OSError: the descriptor is not open.
    """
    return _cached(descriptor, offset, length)[0]


def cached_fraction(path: Path) -> Residency:
    """How much of a file is in the page cache. An empty file is: nothing of it would have to be read."""
    try:
        with _opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            if size == 0:
                return Residency(1.0, "")
            cached, reason = _cached(descriptor, 0, size)
    except OSError as error:
        return Residency(None, error.strerror or str(error))
    return Residency(None if cached is None else cached / size, reason)


def evict(path: Path) -> bool:
    """Drop a file from the page cache, after writing it back where it is one's own.

    Returns:
        Whether no page of it is left. False also where that cannot be seen, and where another process maps the file,
        as its pages stay.

    Raises:
        OSError: the file cannot be opened, is not a regular file or takes no advice.
    """
    with _opened(path) as descriptor:
        for _ in range(_EVICTIONS):
            if _may_see(descriptor):
                with contextlib.suppress(OSError):  # whether it helped is measured below
                    os.fsync(descriptor)  # dirty pages are not dropped
            forget(descriptor)
            cached = cached_bytes(descriptor, 0, os.fstat(descriptor).st_size)
            if not cached:
                return cached == 0
    return False


def warm(path: Path, stop: Callable[[], bool] = lambda: False) -> int:
    """Read a file through a small buffer, which puts it into the page cache as far as there is room.

    Args:
        path: the file.
        stop: asked before every chunk whether to leave the rest.

    Returns:
        The bytes read.

    Raises:
        OSError: the file cannot be read or is not a regular file.
    """
    buffer = bytearray(_BUFFER_BYTES)
    done = 0
    with _opened(path) as descriptor:
        while not stop() and (count := os.readv(descriptor, [buffer])):
            done += count
    return done


def forget(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Ask for a range's pages to be dropped from the page cache; 0 as a length means to the end.

    Raises:
        OSError: this system takes no such advice.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        raise OSError(errno.ENOTSUP, "this system drops no file from the page cache")
    os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def without_read_ahead(descriptor: int) -> None:
    """Let reads of a file bring nothing but what is asked for into the page cache, where that can be had."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def _open(path: Path) -> int:
    # Looked at before it is opened: opening a FIFO waits, and opening a device may do anything.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "not a regular file", str(path))
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cached(descriptor: int, offset: int, length: int) -> tuple[int | None, str]:
    length = min(length, os.fstat(descriptor).st_size - offset)
    if length <= 0:  # which cachestat would read as "to the end of the file"
        return 0, ""
    if sys.platform != "linux":  # where the call has another number, and mincore other manners
        return None, "meminspect can ask Linux only what is in the page cache"
    kind = _file_system_magic(descriptor)
    if kind == _ZFS:
        return None, "ZFS keeps files in a cache of its own, of which the kernel does not tell"
    # An overlay's own inode has no pages, they are the layer's: cachestat answers 0, mincore looks at the layer.
    pages = None if kind in (_OVERLAYFS, None) else _cachestat(descriptor, offset, length)
    if pages is None:
        if not _may_see(descriptor):
            # To anyone else mincore calls every page resident (mm/mincore.c, can_do_mincore).
            return None, "the kernel tells only the file's owner and those who may write it"
        if not _mincore_can_say_no():
            return None, "there is no cachestat (Linux 6.5), and mincore calls every page resident here"
        pages = _mincore(descriptor, offset, length)
    if pages is None:
        return None, "neither cachestat (Linux 6.5) nor mincore works here"
    return min(pages * _PAGE, length), ""


def _cachestat(descriptor: int, offset: int, length: int) -> int | None:
    asked = (ctypes.c_uint64 * 2)(offset, length)
    counts = (ctypes.c_uint64 * 5)()  # in pages: cached, dirty, under writeback, evicted, recently evicted
    failed = _libc().syscall(
        ctypes.c_long(_CACHESTAT), ctypes.c_int(descriptor), ctypes.byref(asked), ctypes.byref(counts), ctypes.c_uint(0)
    )
    return None if failed else counts[0]


def _mincore(descriptor: int, offset: int, length: int) -> int | None:
    libc, end, pages = _libc(), offset + length, 0
    for start in range(offset - offset % _PAGE, end, _WINDOW):
        size = min(_WINDOW, end - start)
        # ctypes cannot have the address of a read-only mmap object.
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
        if address == _MAP_FAILED:
            return None
        try:
            states = ctypes.create_string_buffer(-(-size // _PAGE))
            if libc.mincore(address, size, states):
                return None
        finally:
            libc.munmap(address, size)
        pages += len(states.raw.translate(None, _NOT_RESIDENT))
    return pages


@functools.cache
def _mincore_can_say_no() -> bool:
    """Whether it tells that a page which nobody has touched is not there: gVisor's calls all of them resident.

    True also where it tells nothing at all, which whoever asks in earnest will meet.
    """
    libc = _libc()
    address = libc.mmap(None, _PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address == _MAP_FAILED:
        return True
    try:
        state = ctypes.create_string_buffer(1)
        return bool(libc.mincore(address, _PAGE, state)) or not state.raw[0] & 1
    finally:
        libc.munmap(address, _PAGE)


def _may_see(descriptor: int) -> bool:
    # The kernel's rule for mincore and cachestat, except on a read-only mount, where this is stricter.
    if os.fstat(descriptor).st_uid == os.geteuid():
        return True
    return os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=True)


def _file_system_magic(descriptor: int) -> int | None:
    buffer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    return None if _libc().fstatfs(descriptor, buffer) else buffer[0] & 0xFFFFFFFF


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
