"""Text and tables that are safe to print, whatever a checkpoint's header says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from meminspect.text import TEXT_LIMIT, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["heading", "safe", "table"]

_NAME_LIMIT: Final = 240  # of a table's cell


def safe(value: object, style: str = "", *, limit: int = TEXT_LIMIT) -> Text:
    """Text from outside as something that can be printed: control characters escaped, markup not interpreted."""
    return Text(overflow="fold").append(shown(str(value), limit), style)


def heading(title: str) -> Text:
    """A section's title."""
    return safe(title, "heading")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, gap: int = 2) -> Table:
    """A table whose first column takes text of any length and whose others are numbers or short words."""
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="label")
    for index, title in enumerate(columns):
        grid.add_column(
            title,
            justify="right" if index else "left",
            no_wrap=bool(index),
            overflow="fold",
            min_width=0 if index else 12,
        )
    for row in rows:
        grid.add_row(*(safe(cell, limit=_NAME_LIMIT) for cell in row))
    return grid
