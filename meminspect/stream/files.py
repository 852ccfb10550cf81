"""The files of a load: open while they are read, and no longer; what has changed meanwhile is an error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.errors import StreamError
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
        self._check(file)

    def end(self, file: int) -> None:
        """One read of a file is done.

        Raises:
            StreamError: it was the last, and the file is no longer what it was.
        """
        self._reads_left[file] -= 1
        if not self._reads_left[file]:
            self._check(file)
            os.close(self._descriptors.pop(file))

    def read(self, read: Read, target: memoryview) -> None:
        """Read a stretch of a file that has begun.

        Raises:
            StreamError: it cannot be read, or ends too early.
        """
        offset, end = read.offset, read.offset + read.nbytes
        descriptor, name = self._descriptors[read.file], read.filling.parts[0].name
        while offset < end:
            try:
                count = os.preadv(descriptor, [target[offset - read.offset :]], offset)
            except OSError as error:
                raise StreamError(
                    f"{self._words(read.file)} cannot be read at {offset:,}, in '{shown(name)}': {error.strerror}"
                ) from error
            if not count:
                raise StreamError(f"{self._words(read.file)} ends at {offset:,}, in the middle of '{shown(name)}'")
            offset += count

    def close(self) -> None:
        """Close what is still open."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _identity(self, file: int, nbytes: int) -> _Identity:
        try:
            identity = _Identity.of(self._paths[file].stat())
        except OSError as error:
            raise StreamError(f"{self._words(file)} cannot be opened: {error.strerror}") from error
        if identity.nbytes != nbytes:
            raise StreamError(f"{self._words(file)} has changed since its header was read", "load it again")
        return identity

    def _check(self, file: int) -> None:
        if _Identity.of(os.fstat(self._descriptors[file])) != self._identities[file]:
            raise StreamError(f"{self._words(file)} has changed while it was being read", "load it again")

    def _words(self, file: int) -> str:
        return shown(str(self._paths[file]), _PATH_LIMIT, keep_end=True)
