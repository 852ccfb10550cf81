"""A question with two answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Static

from meminspect.renderables.texts import safe
from meminspect.tui.screens.base import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult

__all__ = ["ConfirmScreen"]


class ConfirmScreen(Dialog[bool]):
    """Asks before something that may hurt; the answer that changes nothing has the focus.

    Args:
        title: what it is about.
        question: in a sentence or two.
        yes: what doing it is called.
        no: what not doing it is called.
    """

    BINDINGS: ClassVar = [("y", "answer(True)", "yes"), ("n", "answer(False)", "no")]

    def __init__(self, title: str, question: str, yes: str, no: str = "no") -> None:
        super().__init__()
        self._title, self._question, self._yes, self._no = title, question, yes, no

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(classes="box") as box:
            box.border_title = safe(self._title).markup
            yield Static(safe(self._question))
            with Horizontal(classes="buttons"):
                yield Button(f"{self._no} (n)", id="no", compact=True)
                yield Button(f"{self._yes} (y)", id="yes", variant="warning", compact=True)

    def on_mount(self) -> None:
        """Enter alone must not hurt."""
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take an answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        """Take an answer by its key."""
        self.dismiss(answer)
