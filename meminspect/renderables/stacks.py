"""Columns of memory as cells, and the characters of a picture of them. Pure: numbers in, cells out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.renderables.canvas import BLANK

if TYPE_CHECKING:
    from meminspect.analysis.reduction import Column
    from meminspect.renderables.canvas import Cell

__all__ = ["ASCII", "UNICODE", "Glyphs", "Scale", "padded", "solid", "stack"]


class Glyphs(NamedTuple):
    """The characters of a picture."""

    full: str
    partial: str  # of one to seven eighths
    pinned: str
    file: str
    undivided: str  # of no known pool
    theory: str
    ceiling: str
    crossed: str  # the ceiling, where the data go beyond it
    beyond: str  # it goes on above the picture
    peak: str
    death: str
    dying: str  # from there down to the axis
    returned: str  # from the top down to the data, where the loading code returned
    side: str
    side_tick: str
    corner: str
    base: str
    phase_tick: str
    time_tick: str
    both_ticks: str
    border: str  # between the names of two phases
    cut: str


UNICODE: Final = Glyphs("█", "▁▂▃▄▅▆▇", "▓", "░", "▒", "·", "─", "┿", "▲", "▾", "✗", "╎", "┊", *"│┤└─┬┴┼│…")
ASCII: Final = Glyphs("#", "___####", "%", ":", "=", ".", "-", "+", "^", "v", "x", "!", ";", *"|++-+'+|~")


class Scale(NamedTuple):
    """How many bytes a number of rows stands for."""

    axis_bytes: int
    rows: int

    def row(self, nbytes: int) -> int:
        """The row, from the bottom, that a level lies in."""
        return nbytes * self.rows // self.axis_bytes

    def cells(self, nbytes: int) -> int:
        """How many rows it takes to show this many bytes."""
        return -(-nbytes * self.rows // self.axis_bytes)

    def seen_eighths(self, nbytes: int) -> int:
        """A height in eighths of a row, one at least for what is not nothing."""
        return max(self.eighths(nbytes), min(nbytes, 1))

    def eighths(self, nbytes: int) -> int:
        """A height in eighths of a row; what exceeds the axis twice is as high as that."""
        return min(nbytes, 2 * self.axis_bytes) * 8 * self.rows // self.axis_bytes


def solid(eighths: int, style: str, glyphs: Glyphs) -> list[Cell]:
    """Cells from the bottom, the last one as full as it is."""
    full, rest = divmod(eighths, 8)
    cells = [(glyphs.full, style)] * full
    return [*cells, (glyphs.partial[rest - 1], style)] if rest else cells


def stack(column: Column | None, scale: Scale, rows: int, glyphs: Glyphs) -> list[Cell]:
    """The pools of a column from the bottom, heap first, as many cells as they fill and `rows` at most.

    Shades have no narrower forms. So a pool of theirs takes a whole cell at least, but none if it is less than an
    eighth of one: the few pages of libraries that every load touches are not to look like a part of it. And where
    heap ends below a shade, the cell is drawn as what fills most of it.
    """
    if column is None:
        return []
    heap, file, pinned, _, _, undivided = column
    shades = [
        (top, char, style)
        for nbytes, top, char, style in (
            (pinned, heap + pinned, glyphs.pinned, "pinned"),
            (file, heap + pinned + file, glyphs.file, "file"),
            (undivided, undivided, glyphs.undivided, "undivided"),  # where there are no others
        )
        if scale.eighths(nbytes)
    ]
    cells = solid(_heap_eighths(heap, scale, below_shade=bool(shades)), "heap", glyphs)
    for top, char, style in shades:
        end = max((scale.eighths(top) + 4) // 8, len(cells) + 1)
        cells += [(char, style)] * (end - len(cells))
    del cells[rows:]
    # Cells above the lowest total were reached for a moment only; whole cells may stand for less than a cell.
    steady = scale.cells(column.low_bytes) + max(len(cells) - scale.cells(column.total_bytes), 0)
    if steady < len(cells):
        cells[steady:] = [(char, f"{style} dim") for char, style in cells[steady:]]
    return cells


def _heap_eighths(nbytes: int, scale: Scale, *, below_shade: bool) -> int:
    if not below_shade:
        return scale.seen_eighths(nbytes)
    eighths = scale.eighths(nbytes)
    return (eighths + 4) // 8 * 8 or eighths


def padded(cells: list[Cell], rows: int) -> list[Cell]:
    """As many cells as there are rows."""
    return cells[:rows] + [BLANK] * (rows - len(cells))
