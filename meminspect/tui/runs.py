"""Runs one strategy after the other, beside the screen."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from meminspect.engine.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.engine.session import Standby
    from meminspect.engine.spec import RunSpec

__all__ = ["Runs"]


class Runs(threading.Thread):
    """Starts a session for each specification when the one before has ended.

    Args:
        specs: what to run, in this order.
        standby: a worker that waits already, for the first of them.
        after: runs whose end is waited for first: memory that is being freed would be taken for the machine's.

    Attributes:
        errors: by capture, why a run left none.
    """

    def __init__(self, specs: Sequence[RunSpec], standby: Standby | None = None, after: Runs | None = None) -> None:
        super().__init__(name="runs", daemon=True)
        self.specs = tuple(specs)
        self.errors: dict[Path, BaseException] = {}
        self._standby = standby
        self._after = after
        self._current: Session | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """The thread's work; what goes wrong is kept in `errors`."""
        if self._after is not None:
            self._after.join()
            self._after = None
        for spec in self.specs:
            self._run(spec)

    def _run(self, spec: RunSpec) -> None:
        try:
            session = self._begin(spec)
            if session is not None:
                session.wait()
        except Exception as error:  # noqa: BLE001 - shown where the run would have been
            self.errors[spec.capture] = error

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked for the end of all that is left."""
        return self._cancelled

    def cancel(self) -> None:
        """End the run under way, whose capture is finished all the same, and begin no other."""
        with self._lock:
            self._cancelled = True
            if self._current is not None:
                self._current.cancel()

    def _begin(self, spec: RunSpec) -> Session | None:
        with self._lock:  # a cancel comes before the session or finds it, never between
            if self._cancelled:
                return None
            standby, self._standby = self._standby, None
            self._current = Session(spec, standby)
            return self._current
