"""One operation on one tensor as one line of a fixed width, and the header above such lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from meminspect.capture.records import Pool
from meminspect.text import shown
from meminspect.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.analysis.operations import TensorOperation

__all__ = ["header_line", "tensor_line"]

_GAP, _GAP_BEFORE_NUMBER = 2, 1  # a number rarely fills its column, whose left side is a gap already
_IN_FLIGHT: Final = "…"
_WORKLESS: Final = ("mapped", "assigned")  # names change hands: no bytes move, so that a rate would be nonsense


class _Column(NamedTuple):
    """A column beside the tensor's name, which takes what is left."""

    key: str
    title: str
    width: int  # columns; numbers stand at the right of it
    from_width: int  # the narrowest line that shows it: the least important asks for the widest
    is_number: bool = True
    style: str = ""

    @property
    def gap(self) -> int:
        return _GAP_BEFORE_NUMBER if self.is_number else _GAP


# Sized for the longest that units.py writes: "1023.99 MiB", "999.9 ms" or "59:59 min", "1023.99 MiB/s".
_TIME: Final = _Column("time", "time", 9, 58, style="quiet")
_AFTER: Final = (
    _Column("shape", "shape", 17, 98, is_number=False, style="quiet"),
    _Column("dtypes", "dtype", 8, 76, is_number=False, style="quiet"),
    _Column("bytes", "bytes", 11, 30),
    _Column("duration", "duration", 9, 66),
    _Column("rate", "rate", 13, 113, style="quiet"),
    _Column("word", "what", 8, 40, is_number=False),
)


def header_line(width: int) -> Text:
    """The columns' titles, in the columns that `tensor_line` uses at the same width."""
    titles = {column.key: column.title for column in (_TIME, *_AFTER)}
    return _line("tensor", titles, width, dict.fromkeys(["tensor", *titles], "label"))


def tensor_line(operation: TensorOperation, start_ns: int, width: int) -> Text:
    """One operation in exactly `width` columns; a name that finds no room loses its start, as its end tells more.

    Args:
        operation: what to write.
        start_ns: the moment from which times count.
        width: columns. As it shrinks the rate goes first, then shape, types, duration, time and what was done.
    """
    texts = {
        # All in seconds, unlike durations, so that a column of them can be read from top to bottom.
        "time": f"{(operation.t_ns - start_ns) / 1e9:+.2f} s",
        "shape": shown(operation.shape),
        "dtypes": shown(operation.dtypes),
        "bytes": format_bytes(operation.nbytes),
        "duration": _IN_FLIGHT if operation.elapsed_ns is None else format_duration(operation.elapsed_ns / 1e9),
        "rate": _rate(operation),
        "word": shown(operation.word),
    }
    pool = "" if operation.pool is Pool.NONE else operation.pool.name.lower()
    return _line(shown(operation.tensor, max(width, 2), keep_end=True), texts, width, {"word": pool})


def _rate(operation: TensorOperation) -> str:
    if not operation.elapsed_ns or operation.word in _WORKLESS:
        return ""
    return format_rate(operation.nbytes / operation.elapsed_ns * 1e9)


def _line(name: str, texts: Mapping[str, str], width: int, styles: Mapping[str, str]) -> Text:
    columns = [column for column in _AFTER if width >= column.from_width]
    name_width = width - sum(column.gap + column.width for column in columns)
    line = Text(end="", no_wrap=True)
    if width >= _TIME.from_width:
        name_width -= _TIME.width + _GAP
        line.append(_cell(_TIME, texts[_TIME.key]) + " " * _GAP, styles.get(_TIME.key, _TIME.style))
    line.append(_end_of(name, name_width), styles.get("tensor", ""))
    for column in columns:
        line.append(" " * column.gap + _cell(column, texts[column.key]), styles.get(column.key, column.style))
    return line


def _cell(column: _Column, text: str) -> str:
    return _end_of(text.rjust(column.width) if column.is_number else text, column.width)


def _end_of(text: str, width: int) -> str:
    """A text in so many columns of the terminal, of which some characters take two and some none."""
    if cell_len(text) > width:
        text = text[-width:]
        while cell_len(text) >= width > 0:
            text = text[1:]
        text = f"{_IN_FLIGHT}{text}"
    return set_cell_size(text, width)
