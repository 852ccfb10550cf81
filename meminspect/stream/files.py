"""The files of a load: open while they are read, and no longer; what has changed meanwhile is an error."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.errors import StreamError
from meminspect.staging import SECTOR_BYTES
from meminspect.stream.past_cache import Ways, is_cold, open_past_cache, sectors
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from meminspect.stream.reading import Read

__all__ = ["Files"]

_PATH_LIMIT: Final = 160  # characters of it in an error; its end tells most


class _Identity(NamedTuple):
    """What a file is, as far as that can be seen without reading it."""

    device: int
    inode: int
    nbytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        """What a file was when it was asked for its status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Files:
    """Opens a file before the first read of it and closes it after the last. A process may have few files open.

    `begin` and `end` are called by one thread at a time, `read` by many.

    Args:
        paths: the files.
        sizes: what each was long when its header was read.
        reads: how many are to be made of each.

    Raises:
        StreamError: one cannot be seen, or is not as long any more.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int], reads: Mapping[int, int]) -> None:
        self._paths = paths
        self._reads_left = dict(reads)
        self._descriptors: dict[int, int] = {}
        self._past_cache: dict[int, int] = {}  # other descriptors of those that are not cached
        self._ways = Ways()
        self._identities = {file: self._identity(file, sizes[file]) for file in self._reads_left}

    def begin(self, file: int) -> None:
        """A file is about to be read.

        Raises:
            StreamError: it cannot be opened, or is another one.
        """
        if file in self._descriptors:
            return
        try:
            descriptor = os.open(self._paths[file], os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StreamError(f"{self._words(file)} cannot be opened: {error.strerror}") from error
        self._descriptors[file] = descriptor
        self._check(file, descriptor)
        if is_cold(descriptor, 0, self._identities[file].nbytes):
            past = open_past_cache(self._paths[file])
            if past is not None:
                self._past_cache[file] = past
                self._check(file, past)

    def end(self, file: int) -> None:
        """One read of a file is done.

        Raises:
            StreamError: it was the last, and the file is no longer what it was.
        """
        self._reads_left[file] -= 1
        if not self._reads_left[file]:
            self._check(file, self._descriptors[file])
            os.close(self._descriptors.pop(file))
            if file in self._past_cache:
                os.close(self._past_cache.pop(file))

    def read(self, read: Read, target: memoryview) -> None:
        """Read a stretch of a file that has begun.

        Raises:
            StreamError: it cannot be read, or ends too early.
        """
        end = read.offset + read.nbytes
        past = self._past_cache.get(read.file)
        if past is None or not is_cold(self._descriptors[read.file], read.offset, read.nbytes):
            self._read_on(read, target, read.offset, end)
            return
        goes_past, began_s = self._ways.next_is_past(), time.perf_counter()
        whole = sectors(read.offset, target) if goes_past else None
        if whole is None:
            self._read_on(read, target, read.offset, end)
        else:
            self._read_on(read, target, read.offset, whole[0])
            self._read_on(read, target, self._read_past(read, target, past, *whole), end)
        if whole is not None or not goes_past:
            self._ways.took(goes_past, read.nbytes, time.perf_counter() - began_s)

    def _read_on(self, read: Read, target: memoryview, offset: int, end: int) -> None:
        """Read from an offset to another, through the page cache."""
        descriptor, name = self._descriptors[read.file], read.filling.parts[0].name
        while offset < end:
            try:
                count = os.preadv(descriptor, [target[offset - read.offset : end - read.offset]], offset)
            except OSError as error:
                raise StreamError(
                    f"{self._words(read.file)} cannot be read at {offset:,}, in '{shown(name)}': {error.strerror}"
                ) from error
            if not count:
                raise StreamError(f"{self._words(read.file)} ends at {offset:,}, in the middle of '{shown(name)}'")
            offset += count

    def _read_past(self, read: Read, target: memoryview, descriptor: int, offset: int, end: int) -> int:
        """Read whole sectors past the page cache; returns how far that went, the rest will be read the other way."""
        while offset < end:
            try:
                count = os.preadv(descriptor, [target[offset - read.offset : end - read.offset]], offset)
            except OSError:
                self._ways.refuse()
                break
            if not count or count % SECTOR_BYTES:
                break
            offset += count
        return offset

    def close(self) -> None:
        """Close what is still open."""
        for descriptors in (self._descriptors, self._past_cache):
            while descriptors:
                os.close(descriptors.popitem()[1])

    def _identity(self, file: int, nbytes: int) -> _Identity:
        try:
            identity = _Identity.of(self._paths[file].stat())
        except OSError as error:
            raise StreamError(f"{self._words(file)} cannot be opened: {error.strerror}") from error
        if identity.nbytes != nbytes:
            raise StreamError(f"{self._words(file)} has changed since its header was read", "load it again")
        return identity

    def _check(self, file: int, descriptor: int) -> None:
        if _Identity.of(os.fstat(descriptor)) != self._identities[file]:
            raise StreamError(f"{self._words(file)} has changed while it was being read", "load it again")

    def _words(self, file: int) -> str:
        return shown(str(self._paths[file]), _PATH_LIMIT, keep_end=True)
