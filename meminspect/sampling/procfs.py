"""A process's memory, I/O and faults as the kernel counts them (`man 5 proc`), through kept-open descriptors.

Standard library only and without allocation to speak of: the worker reads itself with it between two tensors.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Reading
from meminspect.text import listed

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["ProcessGone", "ProcessMemory", "parse_sizes", "parse_status", "why_no_pools"]

_KIB: Final = 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_SHORT_BYTES: Final = 256  # seven numbers; memory of this size is at hand, and a whole page's is not
_USUAL_BYTES: Final = 4 << 10
_MOST_BYTES: Final = 64 << 10  # a user in hundreds of groups has a long status
_LABELS: Final = ("VmHWM", "RssAnon", "RssFile", "RssShmem", "VmSwap")  # Linux has them all since 4.5
_HIGH_WATER: Final = b"\nVmHWM:"
_NO_PAGES: Final = b"0 "
_RESET_HIGH_WATER: Final = b"5"  # man 5 proc, /proc/pid/clear_refs


class ProcessGone(Exception):  # noqa: N818 - a state that callers expect, not an error
    """The process has ended; its books are closed."""


class ProcessMemory:
    """Reads one process: RSS by pool and high-water mark (8 µs), storage reads and faults.

    Args:
        pid: the process; "self" for the caller.

    Raises:
        ProcessGone: there is no such process.
        OSError: its books cannot be opened.
    """

    def __init__(self, pid: int | str) -> None:
        self._folder = f"/proc/{pid}"
        try:
            self._status: int | None = os.open(f"{self._folder}/status", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessGone from error
        self._statm = self._open("statm")
        self._stat = self._open("stat")
        self._io = self._open("io")
        self._clear_refs = self._open("clear_refs", os.O_WRONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reading(self) -> Reading:
        """Pools and high-water mark in bytes.

        Raises:
            ProcessGone: the process has ended.
        """
        return _reading(self.status())

    def sizes(self) -> bytes:
        """The kernel's shortest text on memory, for `parse_sizes`.

        Raises:
            ProcessGone: the process has ended.
        """
        text = self._read(self._statm, _SHORT_BYTES)
        if text.startswith(_NO_PAGES):  # a zombie's
            raise ProcessGone
        return text

    def status(self) -> bytes:
        """The kernel's whole text, for `parse_status`.

        Raises:
            ProcessGone: the process has ended.
        """
        text = self._read(self._status)
        if _HIGH_WATER not in text:  # a zombie's
            raise ProcessGone
        return text

    def reset_high_water(self) -> bool:
        """Make the high-water mark start again from the present RSS; False where the kernel does not let us.

        Raises:
            ProcessGone: the process has ended.
        """
        if self._clear_refs is None:
            return False
        try:
            os.write(self._clear_refs, _RESET_HIGH_WATER)
        except ProcessLookupError as error:
            raise ProcessGone from error
        except OSError:
            return False
        return True

    def storage_read_bytes(self) -> int | None:
        """Bytes that the process has caused to be read from storage; None where one may not know.

        Raises:
            ProcessGone: the process has ended.
        """
        if self._io is None:
            return None
        try:
            text = self._read(self._io)
        except PermissionError:
            return None
        at = text.find(b"\nread_bytes:")
        return int(text[at + 12 : text.index(b"\n", at + 1)]) if at >= 0 else None

    def faults(self) -> tuple[int, int] | None:
        """Minor and major page faults so far; None where one may not know.

        Raises:
            ProcessGone: the process has ended.
        """
        if self._stat is None:
            return None
        # The command name, in parentheses, may itself hold spaces and parentheses.
        fields = self._read(self._stat).rpartition(b")")[2].split()
        return int(fields[7]), int(fields[9])

    def unshared_bytes(self) -> int:
        """What the process keeps from others: its memory but for the pages of files, which are there for everybody.

        Raises:
            ProcessGone: the process has ended.
        """
        reading = self.reading()
        return reading.heap_bytes + reading.pinned_bytes

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self._status, self._statm, self._stat, self._io, self._clear_refs):
            if descriptor is not None:
                os.close(descriptor)
        self._status = self._statm = self._stat = self._io = self._clear_refs = None

    def _open(self, name: str, flags: int = os.O_RDONLY) -> int | None:
        try:
            return os.open(f"{self._folder}/{name}", flags | os.O_CLOEXEC)
        except OSError:
            return None

    @staticmethod
    def _read(descriptor: int | None, usual_bytes: int = _USUAL_BYTES) -> bytes:
        if descriptor is None:
            raise ProcessGone
        try:
            text = os.pread(descriptor, usual_bytes, 0)
            if len(text) == usual_bytes:
                text = os.pread(descriptor, _MOST_BYTES, 0)
        except ProcessLookupError as error:
            raise ProcessGone from error
        if not text:
            raise ProcessGone
        return text


@functools.cache
def why_no_pools() -> str:
    """Why this system does not tell a process's heap, file and pinned memory apart; empty where it does."""
    try:
        with ProcessMemory("self") as memory:
            status = memory.status()
    except (ProcessGone, OSError):
        return "this system has no /proc/PID/status, which tells heap, file and pinned memory apart on Linux"
    missing = [label for label in _LABELS if f"\n{label}:".encode() not in status]
    return f"/proc/PID/status lacks {listed(missing)} here" if missing else ""


def parse_sizes(statm: bytes) -> tuple[int, int]:
    """Heap, and all that is shared or of files, of what `ProcessMemory.sizes` has returned (`man 5 proc`, statm)."""
    _, resident, shared, _ = statm.split(b" ", 3)
    return (int(resident) - int(shared)) * _PAGE_BYTES, int(shared) * _PAGE_BYTES


def parse_status(status: bytes) -> tuple[Reading, int]:
    """Pools and high-water mark, and swapped-out bytes, of what `ProcessMemory.status` has returned."""
    return _reading(status), _kib_after(status, b"\nVmSwap:", 0)


def _reading(status: bytes) -> Reading:
    # The lines stand in this order (fs/proc/task_mmu.c, task_mem), so each search starts at the one before.
    # A line's start belongs to the label: the first line is the process's name, which may be anything.
    high_at = status.find(_HIGH_WATER)
    anon_at = status.find(b"\nRssAnon:", high_at)
    file_at = status.find(b"\nRssFile:", anon_at)
    return Reading(
        _kib_after(status, b"\nRssAnon:", anon_at),
        _kib_after(status, b"\nRssFile:", file_at),
        _kib_after(status, b"\nRssShmem:", file_at),
        _kib_after(status, _HIGH_WATER, high_at),
    )


def _kib_after(text: bytes, label: bytes, start: int) -> int:
    at = text.find(label, start) + len(label)
    return int(text[at : text.index(b"kB", at)]) * _KIB
