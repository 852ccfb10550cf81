"""A grid of characters with styles, drawn on cell by cell and handed out as rich's segments."""

from __future__ import annotations

import itertools
from operator import itemgetter
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from meminspect.renderables.palette import STYLES
from meminspect.text import shown

__all__ = ["BLANK", "Canvas", "Cell", "narrow"]

Cell = tuple[str, str]  # one character, and what it means: a name of the palette, " dim" added where it is dimmed

BLANK: Final[Cell] = (" ", "empty")

_PLAIN: Final = {name: Style.parse(style) for name, style in STYLES.items()}
_STYLES: Final = _PLAIN | {f"{name} dim": style + Style(dim=True) for name, style in _PLAIN.items()}


class Canvas:
    """Rows of cells from the top, all equally wide."""

    def __init__(self, rows: list[list[Cell]]) -> None:
        self.rows = rows

    def write(self, row: int, column: int, text: str, style: str) -> None:
        """Write narrow characters over what is there; what goes beyond the canvas is cut."""
        cells = self.rows[row]
        for place, char in enumerate(text, column):
            if 0 <= place < len(cells):
                cells[place] = (char, style)

    def write_right(self, row: int, text: str, style: str, free: str, begin: int = 0) -> bool:
        """Write at the right end of a row, or as far right as there is room; say whether there was.

        Args:
            row: from the top.
            text: what to write; a blank is kept before it and a free cell behind it.
            style: a name of the palette.
            free: the characters that may be written over.
            begin: the column before which nothing is written.
        """
        taken = "".join("." if char in free else "X" for char, _ in self.rows[row]) + "."
        column = taken.rfind("." * (len(text) + 2), begin)
        if column < 0:
            return False
        self.write(row, column, f" {text}", style)
        return True

    def segments(self) -> list[list[Segment]]:
        """The rows, neighbours of one style in one segment."""
        return [
            [
                Segment("".join([char for char, _ in cells]), _STYLES[style])
                for style, cells in itertools.groupby(row, key=itemgetter(1))
            ]
            for row in self.rows
        ]


def narrow(text: str) -> str:
    """Text from outside with one cell for each character."""
    return "".join(char if cell_len(char) == 1 else "?" for char in shown(text, 240))
