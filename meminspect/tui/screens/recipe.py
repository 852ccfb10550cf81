"""A strategy's recipe: the lines that are executed, to be read and copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.highlight import highlight
from textual.widgets import Static

from meminspect.renderables.texts import safe
from meminspect.text import NAME_LIMIT, TEXT_LIMIT, shown
from meminspect.tui.screens.base import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.content import Content

    from meminspect.renderables.explanation import Story

__all__ = ["RecipeScreen", "highlighted"]


def highlighted(code: str) -> Content:
    """A recipe in the theme's colours; it may come from somebody else's capture."""
    return highlight("\n".join(shown(line, TEXT_LIMIT) for line in code.split("\n")), language="python")


class RecipeScreen(Dialog[None]):
    """Shows a recipe.

    Args:
        strategy: whose it is.
        code: its text.
        story: what it does, stage by stage; none where there is no ledger to tell it from.
    """

    BINDINGS: ClassVar = [("i", "leave", "close"), ("c", "copy", "copy")]

    def __init__(self, strategy: str, code: str, story: Story | None = None) -> None:
        super().__init__()
        self._strategy, self._code, self._story = strategy, code, story

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(classes="box") as box:
            box.border_title = safe(f"{self._strategy}: what is executed", limit=NAME_LIMIT).markup
            if self._story is not None:
                yield Static(self._story)
            yield Static(highlighted(self._code))
            yield Static("c to copy · escape to close", classes="keys")

    def action_copy(self) -> None:
        """Put it into the clipboard, where the terminal allows."""
        self.app.copy_to_clipboard(self._code)
        self.notify("copied, if this terminal lets programs copy (OSC 52)")
