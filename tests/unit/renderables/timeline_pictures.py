"""Pictures of made-up runs, and what they look like as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meminspect.analysis.reduction import Series, Timeline
from meminspect.renderables.timeline import Picture, draw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.segment import Segment
    from rich.style import Style


GIB, MS = 1 << 30, 10**6
SMALL, WIDE = (40, 10), (80, 12)  # plots of 35 and 61 or so columns
PHASES = ((0, "build"), (10 * MS, "read"), (25 * MS, "copy"))


def series(pools: Iterable[tuple[float, ...]]) -> Series:
    """One reading a millisecond, in the middle of it: GiB of heap, file and pinned memory, and of VRAM."""
    timeline = Timeline()
    for number, reading in enumerate(pools):
        heap, file, pinned, vram = (round(gib * GIB) for gib in (*reading, 0, 0, 0)[:4])
        timeline.add(number * MS + MS // 2, heap, file, pinned, vram if len(reading) > 3 else None)
    return timeline.frozen()


def frozen(readings: list[tuple[int, int, int, int, int | None]]) -> Series:
    timeline = Timeline(64)
    for reading in readings:
        timeline.add(*reading)
    return timeline.frozen()


def picture(drawn: Series, columns: int = 35, **fields: Any) -> Picture:
    """A picture of that many milliseconds, 40 GiB high."""
    given = {"theory_bytes": 30 * GIB, "ceiling_bytes": 35 * GIB, "phases": PHASES, "axis_bytes": 40 * GIB, **fields}
    return Picture(series=drawn, span_ns=columns * MS, **given)


def lines_of(drawn: list[list[Segment]]) -> list[str]:
    return ["".join(segment.text for segment in line) for line in drawn]


def lines(shown: Picture, size: tuple[int, int] = SMALL, **options: Any) -> list[str]:
    return [line.rstrip() for line in lines_of(draw(shown, *size, **options))]


def style_at(drawn: list[list[Segment]], row: int, column: int) -> Style | None:
    """The style of a cell."""
    for segment in drawn[row]:
        column -= len(segment.text)
        if column < 0:
            return segment.style
    raise AssertionError("no such column")


RAMP = [(float(gib),) for gib in range(1, 31)]
SHORT_PHASES = (
    (0, "build"), (3 * MS, "read"), (8 * MS, "merge"), (8 * MS, "cast"), (9 * MS, "copy"), (13 * MS, "finalise"),
    (20 * MS, "touch"),
)  # fmt: skip
SAW = [(10.0 + 15 * (number % 8 >= 4),) for number in range(32)]
