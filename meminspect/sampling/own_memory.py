"""What a process can learn of its own memory: its pools where procfs tells them, else its largest RSS so far.

Standard library only: the worker reads itself with it.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Final, Protocol

from meminspect.sampling.procfs import ProcessMemory, why_no_pools

if TYPE_CHECKING:
    from meminspect.capture.records import Reading

__all__ = ["OwnMark", "OwnMemory", "largest_rss_bytes", "own_memory"]

_MARK_UNIT: Final = 1 if sys.platform == "darwin" else 1024  # `man 2 getrusage` of macOS, and of the others


class OwnMemory(Protocol):
    """What the worker reads of itself between two tensors."""

    def reading(self) -> Reading | None:
        """Pools and high-water mark in bytes; None where the system tells no pools."""

    def reset_high_water(self) -> bool:
        """Make the high-water mark start again from the present RSS; False where the system does not let us."""

    def storage_read_bytes(self) -> int | None:
        """Bytes that have been read from storage; None where one may not know."""

    def faults(self) -> tuple[int, int] | None:
        """Minor and major page faults so far; None where one may not know."""


class OwnMark:
    """Where there is no procfs: how much is in memory now is for others to say."""

    def reading(self) -> None:
        """Nothing."""

    def reset_high_water(self) -> bool:
        """The mark is that of the process's whole life."""
        return False

    def storage_read_bytes(self) -> int | None:
        """Unknown: `getrusage` counts blocks of no particular size."""
        return None

    def faults(self) -> tuple[int, int]:
        """Minor and major page faults so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_minflt, usage.ru_majflt


def own_memory() -> OwnMemory:
    """The best that there is here."""
    return OwnMark() if why_no_pools() else ProcessMemory("self")


def largest_rss_bytes() -> int:
    """The largest RSS that this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MARK_UNIT
