"""What every header reader stands on: checked opening, positioned reads, and refusals that are safe to print."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from meminspect.errors import CheckpointError
from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meminspect.checkpoint.model import CheckpointFile, StoredTensor

__all__ = ["PATH_LIMIT", "HeaderFile", "Part", "open_header", "os_refusal", "refusal", "sizes"]

PATH_LIMIT = 160


class Part(NamedTuple):
    """What one file of a checkpoint holds, in the words of `Checkpoint`."""

    file: CheckpointFile
    tensors: tuple[StoredTensor, ...]
    warnings: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()
    mixed: bool = False
    beside: tuple[StoredTensor, ...] = ()
    untrusted: tuple[str, ...] = ()


class HeaderFile:
    """A regular file, open for positioned reads of its headers.

    Positioned reads with read-ahead switched off leave the page cache as they found it, a page a header aside:
    a *cold* run that follows stays cold.
    """

    __slots__ = ("_fd", "_start", "nbytes", "path")

    def __init__(self, fd: int, path: Path, nbytes: int, start: int = 0) -> None:
        self._fd = fd
        self._start = start
        self.path = path
        self.nbytes = nbytes

    def part(self, offset: int, nbytes: int) -> HeaderFile:
        """A run of the file as if it were one by itself; offsets count from its start.

        Raises:
            CheckpointError: it reaches beyond the file.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            found, promised = sizes(self.nbytes, offset + nbytes)
            raise self.refuse(f"has {found} of the {promised} that its header promises", "finish the download")
        return HeaderFile(self._fd, self.path, nbytes, self._start + offset)

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly `count` bytes at `offset`; the caller has compared both with the size of the file.

        Raises:
            CheckpointError: the file has shrunk since it was opened, or the disk fails.
        """
        if offset < 0 or count < 0 or offset + count > self.nbytes:
            raise self.refuse("a header points outside the file")
        parts = []
        while count:
            try:
                part = os.pread(self._fd, count, self._start + offset)
            except OSError as error:
                raise os_refusal(self.path, error) from error
            if not part:
                raise self.refuse("shrank while it was being read", "wait until the download has finished")
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return b"".join(parts)

    def refuse(self, message: str, hint: str = "") -> CheckpointError:
        """The error to raise about this file."""
        return refusal(self.path, message, hint)


@contextlib.contextmanager
def open_header(path: Path) -> Iterator[HeaderFile]:
    """Open a regular file for reading its headers; a pipe or device is refused without touching its content.

    Raises:
        CheckpointError: the file is absent, unreadable or not a regular file.
    """
    try:
        # Opening a pipe would otherwise wait for a writer before its type can be seen.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise os_refusal(path, error) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise refusal(path, "is not a regular file", "name a checkpoint file or its folder")
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        yield HeaderFile(fd, path, status.st_size)
    finally:
        os.close(fd)


def refusal(path: Path, message: str, hint: str = "") -> CheckpointError:
    """An error of one printable line that begins with the path."""
    text = shown(str(path), PATH_LIMIT, keep_end=True)
    return CheckpointError(f"{text}: {message}", hint)


def os_refusal(path: Path, error: OSError) -> CheckpointError:
    """The error for what the operating system said about a path."""
    if isinstance(error, FileNotFoundError):
        return refusal(path, "no such file or folder", "meminspect reads local checkpoints and never downloads")
    if isinstance(error, PermissionError):
        return refusal(path, "may not be read by this user", "change its permissions or run as its owner")
    return refusal(path, shown(error.strerror or str(error) or type(error).__name__))


def sizes(found: int, promised: int) -> tuple[str, str]:
    """Two sizes in words that differ: rounded units where those tell them apart, plain bytes elsewhere."""
    words = format_bytes(found), format_bytes(promised)
    return words if words[0] != words[1] else (f"{found:,} bytes", f"{promised:,} bytes")
