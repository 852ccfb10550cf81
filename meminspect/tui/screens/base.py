"""What every screen is: it says so when the terminal is too small, and shows what went wrong in its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.screen import ModalScreen, Screen
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from meminspect.tui.sizes import LEAST_HEIGHT, LEAST_WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.events import DescendantFocus
    from textual.widget import Widget

    from meminspect.tui.owner import Owner

__all__ = ["BaseScreen", "Dialog"]

Answer = TypeVar("Answer")


class _KeepsFocus:
    """What is hidden loses the focus: a terminal that was too small for a moment must not leave dead keys behind."""

    _had_focus: Widget | None = None

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Remember where it is."""
        self._had_focus = event.widget

    def on_resize(self) -> None:
        """Give it back once there is room again."""
        cast("Screen[Any]", self).call_after_refresh(self._restore_focus)

    def _restore_focus(self) -> None:
        screen, widget = cast("Screen[Any]", self), self._had_focus
        has_room = not (screen.has_class("-too-narrow") or screen.has_class("-too-low"))
        if has_room and screen.focused is None and widget is not None and widget in screen.focus_chain:
            screen.set_focus(widget, scroll_visible=False)


class BaseScreen(_KeepsFocus, Screen[None]):
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


class Dialog(_KeepsFocus, ModalScreen[Answer]):
    """A box over the screen that asks or tells; escape leaves it without an answer."""

    BINDINGS: ClassVar = [("escape", "leave", "close")]
    DEFAULT_CLASSES = "dialog"

    def action_leave(self) -> None:
        """Close without an answer."""
        self.dismiss(None)
