"""Reads captures beside the screen, so that no frame waits for a disk or for SQLite."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from meminspect.analysis.follow import RunFollower, RunView
from meminspect.engine.session import conclude

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Following"]

_INTERVAL_S: Final = 0.1  # no more often than it is drawn
_LOOKS_BETWEEN: Final = 20


class Following:
    """Follows captures that grow, or are finished, or do not exist yet.

    Attributes:
        views: what was read last, a frozen view a capture; the screen takes it when it draws.
    """

    def __init__(self, captures: Sequence[Path]) -> None:
        self.captures = tuple(captures)
        self.views = tuple(RunView(capture) for capture in captures)

    def run(self, stopped: Callable[[], bool], written: Callable[[], bool] | None) -> None:
        """Read until everything has ended or somebody stops it; for a thread.

        Args:
            stopped: asked between two looks.
            written: whether somebody of us still writes them. None: they are files that have been kept; one that is
                absent is an error then, one whose supervisor is gone is given its end, and others are followed.

        Raises:
            CaptureError: one of them cannot be read.
        """
        with contextlib.ExitStack() as stack:
            awaited = written is not None
            followers = [stack.enter_context(RunFollower(capture, awaited=awaited)) for capture in self.captures]
            looked = 0
            while not stopped():
                if written is None and looked % _LOOKS_BETWEEN == 0:
                    for follower in followers:
                        _tend(follower)
                looked += 1
                last = written is not None and not written()  # asked first: then this look sees everything
                looks = [follower.poll() for follower in followers]
                self.views = tuple(view for view, _ in looks)
                behind = any(behind for _, behind in looks)
                if all(view.ended for view in self.views) or (last and not behind):
                    return
                if not behind:
                    time.sleep(_INTERVAL_S)


def _tend(follower: RunFollower) -> None:
    """Give a kept capture its end if its supervisor is gone; of one that is not ours to write, take a newer copy."""
    if follower.ended:
        return
    if follower.reader is not None and follower.reader.is_copy:
        follower.close()
    conclude(follower.open())
