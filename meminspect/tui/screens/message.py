"""What went wrong, in one line, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.widgets import Static

from meminspect.renderables.texts import safe
from meminspect.tui.screens.base import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from meminspect.tui.faults import Fault

__all__ = ["MessageScreen"]


class MessageScreen(Dialog[None]):
    """An error that has no place of its own on the screen below."""

    BINDINGS: ClassVar = [("enter", "leave", "close")]

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(classes="box") as box:
            box.border_title = "Something went wrong"
            yield Static(safe(self._fault.message, "trouble"))
            if self._fault.hint:
                yield Static(safe(self._fault.hint))
            yield Static("enter or escape to go on", classes="keys")
