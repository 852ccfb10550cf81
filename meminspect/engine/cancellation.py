"""The wish to end a run, as it reaches the supervisor: something is written to a descriptor, or it hangs up."""

from __future__ import annotations

import enum
import math
import select
from typing import Final

__all__ = ["CANCEL", "Cancellation", "Ending"]

CANCEL: Final = "cancel\n"
"""What is written by whoever ends a run on purpose; that it is something is all that matters."""


class Ending(enum.Enum):
    """What has put an end to a run's worker."""

    ITSELF = enum.auto()
    TIMED_OUT = enum.auto()
    CANCELLED = enum.auto()
    ABANDONED = enum.auto()  # whoever had started the run is gone without a word


class Cancellation:
    """Watches descriptors; what is readable once stays so, since nobody reads it."""

    def __init__(self, *descriptors: int) -> None:
        self._descriptors = descriptors

    def requested(self) -> bool:
        """Whether the run is to end."""
        return self.wish() is not None

    def wish(self) -> Ending | None:
        """CANCELLED or ABANDONED where the run is to end, else None."""
        return self._wish_in(self._ready(0))

    def end_of(self, end: int, timeout_s: float | None = None) -> Ending:
        """Wait for a process to end, which makes its descriptor `end` ready, for the wish to end it, or for so long."""
        ready = self._ready(None if timeout_s is None else math.ceil(timeout_s * 1000), end)
        if end in ready:
            return Ending.ITSELF
        return self._wish_in(ready) or Ending.TIMED_OUT

    @staticmethod
    def _wish_in(ready: dict[int, int]) -> Ending | None:
        """A pipe's other end that is gone makes it hang up; a word that was sent before is still there to be read."""
        if not ready:
            return None
        told = any(events & select.POLLIN for events in ready.values())
        return Ending.CANCELLED if told else Ending.ABANDONED

    def _ready(self, timeout_ms: int | None, *others: int) -> dict[int, int]:
        poll = select.poll()
        for descriptor in (*self._descriptors, *others):
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
        return dict(poll.poll(timeout_ms))
