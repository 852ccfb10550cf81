"""What every screen is: it says so when the terminal is too small, and shows what went wrong in its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from textual.screen import ModalScreen, Screen
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from meminspect.tui.sizes import LEAST_HEIGHT, LEAST_WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.tui.owner import Owner

__all__ = ["BaseScreen", "Dialog"]

Answer = TypeVar("Answer")


class BaseScreen(Screen[None]):
    """A screen that fills the terminal. Whoever composes it yields `self.too_small()` as well."""

    @property
    def owner(self) -> Owner:
        """The app, for what only it can do."""
        return cast("Owner", self.app)

    def too_small(self) -> Static:
        """What stands in place of everything where there is no room."""
        words = (
            f"meminspect needs {LEAST_WIDTH} columns and {LEAST_HEIGHT} rows:\nmake this terminal larger, or press q"
        )
        return Static(words, id="too-small")

    def in_background(self, work: Callable[[], object], doing: str) -> Worker[object]:
        """Do something in a thread; what it raises is shown.

        Args:
            work: what to do. It touches no widget but through `app.call_from_thread`.
            doing: what that is, as it follows 'while'.
        """
        return self.run_worker(work, name=doing, thread=True, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Report what went wrong in a thread of this screen."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.failed(event.worker.error, event.worker.name)

    def failed(self, error: BaseException, doing: str) -> None:
        """Show an error; a screen that has a better place for it overrides this."""
        self.owner.report(error, doing)


class Dialog(ModalScreen[Answer]):
    """A box over the screen that asks or tells; escape leaves it without an answer."""

    BINDINGS: ClassVar = [("escape", "leave", "close")]
    DEFAULT_CLASSES = "dialog"

    def action_leave(self) -> None:
        """Close without an answer."""
        self.dismiss(None)
