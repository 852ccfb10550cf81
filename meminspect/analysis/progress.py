"""How far a run has come, told from its events as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meminspect.capture.records import Event

__all__ = ["RunProgress"]


class RunProgress:
    """Follows one run: feed it every event once.

    Attributes:
        phase: the phase it is in; empty before the first.
        tensor: the tensor in flight, or the last one.
        done_bytes: bytes of finished work; of `Theory.work_bytes` in all.
    """

    def __init__(self) -> None:
        self.phase = ""
        self.tensor = ""
        self.done_bytes = 0

    def update(self, events: Iterable[Event]) -> None:
        """Take new events into account."""
        for event in events:
            if event.kind is EventKind.PHASE:
                self.phase, self.tensor = event.name, ""
            elif event.kind is EventKind.BEGIN:
                self.tensor = event.name
            elif event.kind is EventKind.END:
                self.done_bytes += event.nbytes
