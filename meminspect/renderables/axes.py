"""Round steps and labels for the axes of bytes and of time. Pure: numbers in, numbers and words out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ByteAxis", "TimeMark", "byte_axis", "cut_to", "nice_step", "phase_ruler", "time_marks"]

_ROWS_BETWEEN: Final = 3  # labels of bytes
_COLUMNS_BETWEEN: Final = 14  # labels of time
_LEAST_OF_A_NAME: Final = 4  # characters, the sign of cutting among them
_MS: Final = 10**6
_S: Final = 10**9
# From which span on a unit is used: 90 s and 500 s are good words, 0.2 min is not.
_TIMES: Final = ((0, _MS, "ms"), (_S, _S, "s"), (600 * _S, 60 * _S, "min"), (36_000 * _S, 3600 * _S, "h"))


class ByteAxis(NamedTuple):
    """The labels of an axis of bytes, all in one unit."""

    unit: str
    labels: tuple[tuple[int, str], ...]  # bytes and what to write there, from the least above 0

    def short(self, nbytes: int) -> str:
        """A number of bytes as it is written beside the axis: without the unit where it is the axis's."""
        return format_bytes(nbytes).removesuffix(f" {self.unit}")


class TimeMark(NamedTuple):
    """A moment that is named."""

    t_ns: int
    text: str


def nice_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`, which is positive."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def byte_axis(axis_bytes: int, rows: int) -> ByteAxis:
    """Labels for an axis of that many rows; at least one, if there is a round number at all.

    Args:
        axis_bytes: what the rows stand for.
        rows: of the terminal; labels are some rows apart.
    """
    unit = format_bytes(axis_bytes).rsplit(" ")[1]
    unit_bytes = parse_bytes(f"1{unit}")
    step = nice_step(max(axis_bytes / max(rows / _ROWS_BETWEEN, 1), 1) / unit_bytes)
    if step * unit_bytes > axis_bytes:
        step = nice_step(axis_bytes / unit_bytes / 2.5)
    digits = max(0, -math.floor(math.log10(step)))
    count = math.floor(axis_bytes / unit_bytes / step)
    return ByteAxis(
        unit,
        tuple((round(number * step * unit_bytes), f"{number * step:.{digits}f}") for number in range(1, count + 1)),
    )


def time_marks(span_ns: int, columns: int) -> list[TimeMark]:
    """Round moments from 0 (left out) to the end of the span, far enough apart to be named: ``2 s``, ``4 s``."""
    _, unit_ns, unit = next(each for each in reversed(_TIMES) if span_ns >= each[0])
    step = nice_step(max(span_ns * _COLUMNS_BETWEEN / columns, 1) / unit_ns)
    count = math.floor(span_ns / unit_ns / step)
    return [TimeMark(round(number * step * unit_ns), f"{number * step:g} {unit}") for number in range(1, count + 1)]


def phase_ruler(begins: Sequence[tuple[int, str]], width: int, border: str, cut: str) -> list[tuple[int, str]]:
    """The names of phases under their stretch, cut or left out where it is too short, as columns and text.

    Args:
        begins: the column in which each phase begins, ascending, and its name.
        width: columns; the last phase ends there.
        border: what stands where a phase begins, other than at the very beginning.
        cut: what stands for the rest of a name.
    """
    ends = [*(column for column, _ in begins[1:]), width]
    texts = [
        (begin, _phase_text(name, begin, end, border, cut))
        for (begin, name), end in zip(begins, ends, strict=False)  # before the first phase there is only an end
    ]
    return [(begin, text) for begin, text in texts if text]


def _phase_text(name: str, begin: int, end: int, border: str, cut: str) -> str:
    before = border if begin else ""
    room = end - begin - len(before)
    if room < 0:
        return ""
    if len(name) > room:
        return before + (cut_to(name, room, cut) if room >= _LEAST_OF_A_NAME else "")
    return f"{before} {name}" if before and room > len(name) else before + name


def cut_to(text: str, room: int, cut: str) -> str:
    """As much of a text as there is room for, which is more than nothing."""
    return text if len(text) <= room else text[: room - 1] + cut
