"""The user's wish to end a run, as it reaches the supervisor: a descriptor that becomes readable, or hangs up."""

from __future__ import annotations

import select

__all__ = ["Cancellation"]


class Cancellation:
    """Watches descriptors; what is readable once stays so, since nobody reads it."""

    def __init__(self, *descriptors: int) -> None:
        self._descriptors = descriptors

    def requested(self) -> bool:
        """Whether the run is to end."""
        return bool(self._ready(0))

    def comes_before_end_of(self, pidfd: int) -> bool:
        """Wait for the end of a process; True when the wish came first."""
        return pidfd not in self._ready(None, pidfd)

    def _ready(self, timeout_ms: int | None, *others: int) -> set[int]:
        poll = select.poll()
        for descriptor in (*self._descriptors, *others):
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
        return {descriptor for descriptor, _ in poll.poll(timeout_ms)}
