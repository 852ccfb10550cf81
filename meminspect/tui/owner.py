"""What screens may ask of the app: it alone knows where to go, and owns what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.engine.spec import RunSpec
    from meminspect.errors import SeveralCheckpointsError
    from meminspect.strategies import LoadOptions
    from meminspect.tui.runs import Runs

__all__ = ["Owner"]


class Owner(Protocol):
    """The app as its screens see it: no screen imports another that it only leads to."""

    folder: Path | None
    """Where captures go; None for the user's data folder."""

    def open_picker(self, several: SeveralCheckpointsError | None = None) -> None:
        """Choose a checkpoint, in place of the screen there is.

        Args:
            several: what a folder holds, of which one is to be chosen.
        """

    def open_checkpoint(self, ckpt: Path) -> None:
        """Show a checkpoint and its plan, in place of the screen there is."""

    def first_options(self) -> LoadOptions:
        """How to load, as long as nobody has chosen."""

    def open_captures(self, captures: Sequence[Path], runs: Runs | None = None) -> None:
        """Show one run, or several beside each other, over the screen there is.

        Args:
            captures: one to four.
            runs: what writes them; None for earlier runs.
        """

    def open_history(self) -> None:
        """List earlier captures, over the screen there is."""

    def begin(self, specs: Sequence[RunSpec]) -> None:
        """Run these in turn, and show them."""

    def stand_by(self, python: str) -> None:
        """Let a worker import torch while the user reads, for the run that may come.

        Args:
            python: the interpreter of that worker.
        """

    def close_standby(self) -> None:
        """Give back the memory of a worker that waits, if there is one."""

    def report(self, error: BaseException, doing: str) -> None:
        """Say what went wrong; what is our own fault goes to the log as well.

        Args:
            error: what was raised, in whatever thread.
            doing: what was being done, as it follows 'while'.
        """
