"""The keys of the screen below, and what its picture means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from meminspect.renderables.texts import heading
from meminspect.tui.keys import our_keys
from meminspect.tui.screens.base import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.screen import Screen

__all__ = ["HelpScreen"]

_KEY_WIDTH = 14
_EVERYWHERE = (
    ("arrows, pages", "move; tab goes to the next part of the screen"),
    ("mouse", "does the same: click, double click, wheel"),
)


class HelpScreen(Dialog[None]):
    """Lists every key that works on a screen, with the focus where it is."""

    BINDINGS: ClassVar = [("question_mark", "leave", "close")]

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__()
        self._keys = _keys(screen)
        self._legend: tuple[tuple[str, str, str], ...] = getattr(screen, "LEGEND", ())

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(classes="box") as box:
            box.border_title = "Keys"
            yield Static(Text("\n").join(_line(key, "bold", words) for key, words in self._keys))
            if self._legend:
                yield Static("")
                yield Static(heading("What the picture means"))
                yield Static(Text("\n").join(_line(mark, style, words) for mark, style, words in self._legend))
            yield Static("escape to close · arrows to scroll", classes="keys")


def _keys(screen: Screen[Any]) -> list[tuple[str, str]]:
    keys: dict[str, list[str]] = {}
    for active in our_keys(screen):
        keys.setdefault(active.binding.description, []).append(screen.app.get_key_display(active.binding))
    return [*((", ".join(shown), words) for words, shown in keys.items()), *_EVERYWHERE]


def _line(mark: str, style: str, words: str) -> Text:
    return Text.assemble((mark.ljust(_KEY_WIDTH), style), words)
