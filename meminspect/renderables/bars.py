"""Bars of memory drawn to scale, with the ceiling marked. Pure: numbers in, characters out."""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

__all__ = ["ASCII", "UNICODE", "Glyphs", "Run", "axis_bytes_for", "ceiling_column", "memory_bar"]


class Glyphs(NamedTuple):
    """The characters of a bar."""

    full: str
    partial: str  # of one to seven eighths
    file: str
    ceiling: str
    crossed: str  # the ceiling, where the bar goes beyond it
    beyond: str  # the bar goes on outside the picture


class Run(NamedTuple):
    """Neighbouring characters of one meaning."""

    text: str
    part: str  # heap, file, ceiling or empty: the style to draw it in


UNICODE: Final = Glyphs("█", "▏▎▍▌▋▊▉", "░", "│", "┿", "▶")
ASCII: Final = Glyphs("#", "#######", ":", "|", "+", ">")

_HEADROOM: Final = 8  # the ceiling leaves an eighth of the axis to what exceeds it


def axis_bytes_for(ceiling_bytes: int | None, longest_bytes: int) -> int:
    """How many bytes the whole width stands for: the ceiling and a little more, so that it can be seen to be passed.

    Args:
        ceiling_bytes: what is available; None if unknown.
        longest_bytes: the longest bar, which is the axis where no ceiling is known.
    """
    if not ceiling_bytes:
        return max(longest_bytes, 1)
    return ceiling_bytes * _HEADROOM // (_HEADROOM - 1)


def ceiling_column(ceiling_bytes: int | None, axis_bytes: int, width: int) -> int | None:
    """The column of the ceiling's mark; None without one."""
    if not ceiling_bytes:
        return None
    return min(ceiling_bytes * width // axis_bytes, width - 1)


def memory_bar(
    heap_bytes: int,
    total_bytes: int,
    *,
    ceiling_bytes: int | None,
    axis_bytes: int,
    width: int,
    glyphs: Glyphs = UNICODE,
) -> list[Run]:
    """Draw one bar: solid what cannot be reclaimed, light what can, then nothing, with the ceiling in its column.

    The mark is crossed exactly when the total exceeds the ceiling, also by less than a column; what is not nothing
    is drawn with an eighth of a column at least.

    Args:
        heap_bytes: what cannot be reclaimed.
        total_bytes: that and what can be.
        ceiling_bytes: where to draw the mark; None for no mark.
        axis_bytes: what the whole width stands for.
        width: columns.
        glyphs: UNICODE or ASCII.
    """
    cells = _filled(heap_bytes, total_bytes, axis_bytes, width, glyphs)
    if total_bytes > axis_bytes:
        cells[-1] = (glyphs.beyond, "heap" if heap_bytes > axis_bytes else "file")
    column = ceiling_column(ceiling_bytes, axis_bytes, width)
    if column is not None and ceiling_bytes is not None:
        cells[column] = (glyphs.crossed if total_bytes > ceiling_bytes else glyphs.ceiling, "ceiling")
    return [
        Run("".join(char for char, _ in group), part)
        for part, group in itertools.groupby(cells, key=lambda cell: cell[1])
    ]


def _filled(heap_bytes: int, total_bytes: int, axis_bytes: int, width: int, glyphs: Glyphs) -> list[tuple[str, str]]:
    full, eighths = divmod(min(_eighths(heap_bytes, axis_bytes, width), 8 * width), 8)
    cells = [(glyphs.full, "heap")] * full
    if eighths:
        cells.append((glyphs.partial[eighths - 1], "heap"))
    if total_bytes > heap_bytes:
        # At least one column, since the light block has no narrower forms.
        end = max(round(_eighths(total_bytes, axis_bytes, width) / 8), len(cells) + 1)
        cells += [(glyphs.file, "file")] * (min(end, width) - len(cells))
    return cells + [(" ", "empty")] * (width - len(cells))


def _eighths(nbytes: int, axis_bytes: int, width: int) -> int:
    return max(nbytes * 8 * width // axis_bytes, 1 if nbytes else 0)
