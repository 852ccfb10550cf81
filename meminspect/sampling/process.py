"""A process's memory as it is seen from outside: by pool where procfs tells that, else the total that psutil has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import psutil

from meminspect.sampling.procfs import ProcessGone, ProcessMemory, why_no_pools

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["ProcessBooks", "ProcessTotal", "process_books"]


class ProcessBooks(Protocol):
    """What the supervisor reads of a process; everything may raise `ProcessGone`."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what it holds open."""

    def sizes(self) -> bytes | int:
        """What is quickly read: for `procfs.parse_sizes`, or RSS in bytes."""

    def status(self) -> bytes | int:
        """All there is: for `procfs.parse_status`, or RSS in bytes."""

    def storage_read_bytes(self) -> int | None:
        """Bytes that the process has caused to be read from storage; None where one may not know."""

    def faults(self) -> tuple[int, int] | None:
        """Minor and major page faults so far; None where one may not know."""

    def unshared_bytes(self) -> int:
        """What the process keeps from others: its memory but for the pages of files, which are there for everybody."""


class ProcessTotal:
    """Reads the RSS of one process through psutil.

    Args:
        pid: the process.

    Raises:
        ProcessGone: there is no such process.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._process = psutil.Process(pid)  # type: ignore[no-untyped-call]
        except psutil.NoSuchProcess as error:
            raise ProcessGone from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def sizes(self) -> int:
        """RSS in bytes.

        Raises:
            ProcessGone: the process has ended.
        """
        try:
            rss_bytes = int(self._process.memory_info().rss)
        except psutil.NoSuchProcess as error:  # which a zombie is, too
            raise ProcessGone from error
        if not rss_bytes:  # a zombie's, where psutil does not say so
            raise ProcessGone
        return rss_bytes

    status = sizes

    def storage_read_bytes(self) -> None:
        """Unknown."""

    def faults(self) -> None:
        """Unknown."""

    def unshared_bytes(self) -> int:
        """What would be free if it ended now; 0 where one may not know."""
        try:
            return int(self._process.memory_full_info().uss)  # type: ignore[no-untyped-call]
        except psutil.Error:
            return 0


def process_books(pid: int) -> ProcessBooks:
    """The best that there is here.

    Raises:
        ProcessGone: there is no such process.
    """
    return ProcessTotal(pid) if why_no_pools() else ProcessMemory(pid)
