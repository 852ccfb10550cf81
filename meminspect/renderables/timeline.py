"""The picture of a load: memory over time, stacked by pool, with theory, ceiling and phases. Pure: data in, text out.

Every line is drawn in the row that its value falls into. What cannot be reclaimed is solid, what can is light, and
what a column reached for a moment only is dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.renderables.axes import byte_axis, cut_to, phase_ruler, time_marks
from meminspect.renderables.canvas import BLANK, Canvas, narrow
from meminspect.renderables.stacks import ASCII, UNICODE, Glyphs, Scale, padded, solid, stack
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.segment import Segment

    from meminspect.analysis.reduction import Series
    from meminspect.renderables.axes import ByteAxis
    from meminspect.renderables.canvas import Cell

__all__ = ["ASCII", "UNICODE", "Glyphs", "Picture", "axis_for", "draw", "is_near"]

_HEADROOM: Final = 16  # the axis goes a sixteenth beyond what it must show
_NEAR: Final = (8, 5)  # a ceiling further away than this ratio would squash the data
_RETURNED: Final = "returned"
_MARGIN_FROM: Final = 70  # columns of a picture whose labels stand beside the plot
# From how many lines on a picture has each of these.
_PHASES_FROM, _NOTE_FROM, _TIMES_FROM, _LANE_FROM, _TIMES_BELOW_FROM = 6, 7, 8, 8, 14


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be seen; bytes are above the baseline, times since the load began."""

    series: Series
    span_ns: int  # what the whole width stands for
    axis_bytes: int  # what the height stands for: `axis_for`
    theory_bytes: int | None  # the predicted peak of all host pools
    ceiling_bytes: int | None  # what the process may take: usable memory, or the limit
    phases: tuple[tuple[int, str], ...]  # begin in nanoseconds and name, in order
    returned_ns: int | None = None  # where the loading code returned: what comes then, a mapping had put off
    peak_ns: int | None = None  # where the peak is
    died_ns: int | None = None  # where the run died
    vram_total_bytes: int | None = None  # of the device: draws its lane
    vram_axis_bytes: int = 0  # what the lane's height stands for at least: for lanes that are compared
    vram_note: str = ""  # why there is no lane, in one line
    vram_theory: tuple[int, ...] = ()  # bytes of the device, evenly over the width: its lane where nothing is measured
    timed: bool = True  # whether the width stands for time, so that moments are written below it


def axis_for(peaks: Iterable[int], ceiling_bytes: int | None) -> int:
    """How many bytes the height stands for: all that must be shown and a little more; the ceiling too, if it is near.

    Args:
        peaks: measured and predicted ones, of all pictures that are to be compared.
        ceiling_bytes: None if unknown.
    """
    highest = max(peaks, default=0)
    ceiling = ceiling_bytes or 0
    if not highest or is_near(ceiling, highest):
        highest = max(highest, ceiling)
    return max(highest + highest // _HEADROOM, 1)


def is_near(nbytes: int, highest_bytes: int) -> bool:
    """Whether a line may be shown to scale without squashing what reaches so high."""
    return nbytes * _NEAR[1] <= highest_bytes * _NEAR[0]


def draw(picture: Picture, width: int, height: int, *, glyphs: Glyphs = UNICODE) -> list[list[Segment]]:
    """Draw `height` lines of `width` cells each; at least 3 lines of 20 cells."""
    drawing = _Drawing(picture, _layout(picture, width, height), glyphs)
    drawing.draw_bytes_axis()
    drawing.draw_levels()
    drawing.draw_marks()
    drawing.name_levels()
    drawing.draw_return()
    drawing.draw_time_axis()
    drawing.draw_device()
    return drawing.canvas.segments()


class _Layout(NamedTuple):
    """Where everything is, in cells from the top left; None for what there is no room for."""

    axis: ByteAxis
    width: int
    height: int
    left: int  # columns of labels and axis
    plot_width: int
    plot_rows: int
    scale: Scale  # of the plot; one row above it is left to marks
    phase_row: int | None
    time_row: int | None  # below the plot or, as the axis itself, just under it
    lane_rows: int  # at the bottom, but for the note
    lane_first: int
    note_row: int | None

    def column(self, t_ns: int, span_ns: int) -> int | None:
        """The column of the plot in which a moment lies; None if it is not in the picture."""
        return min(t_ns * self.plot_width // max(span_ns, 1), self.plot_width - 1) if 0 <= t_ns <= span_ns else None


def _layout(picture: Picture, width: int, height: int) -> _Layout:
    lane = (picture.vram_total_bytes is not None or bool(picture.vram_theory)) and height >= _LANE_FROM
    lane_rows = min(max(height // 4, 2), 4) if lane else 0
    note = bool(picture.vram_note) and picture.vram_total_bytes is None and height >= _NOTE_FROM
    phases, below = height >= _PHASES_FROM, picture.timed and height >= _TIMES_BELOW_FROM
    rows = height - 1 - phases - below - lane_rows - note
    scale = Scale(max(picture.axis_bytes, 1), rows - (height >= _TIMES_FROM))
    axis = byte_axis(*scale)
    left = max(map(len, (axis.unit, "VRAM" if lane else "", *(text for _, text in axis.labels)))) + 2
    lane_first = height - note - lane_rows
    beside = [*(text for _, text, _ in _levels(picture, axis)), *_device_texts(picture, 0)]
    right = max((len(text) + 1 for text in beside), default=0) if width >= _MARGIN_FROM else 0
    time_row = rows + 2 if below else rows if picture.timed and height >= _TIMES_FROM else None
    return _Layout(
        axis, width, height, left, width - left - right, rows, scale, rows + 1 if phases else None, time_row,
        lane_rows, lane_first, height - 1 if note else None,
    )  # fmt: skip


def _levels(picture: Picture, axis: ByteAxis) -> list[tuple[int, str, str]]:
    """The lines across the picture, with their words and their style."""
    levels = ((picture.ceiling_bytes, "ceiling"), (picture.theory_bytes, "theory"))
    return [(max(nbytes, 0), f"{name} {axis.short(nbytes)}", name) for nbytes, name in levels if nbytes is not None]


def _device_texts(picture: Picture, used_bytes: int) -> list[str]:
    if picture.vram_total_bytes is None:
        return [f"max {format_bytes(max(picture.vram_theory))}", "by theory"] if picture.vram_theory else []
    return [f"max {format_bytes(used_bytes)}", f"of {format_bytes(picture.vram_total_bytes)}"]


class _Drawing:
    """A picture while it is being drawn."""

    def __init__(self, picture: Picture, layout: _Layout, glyphs: Glyphs) -> None:
        self.picture, self.layout, self.glyphs = picture, layout, glyphs
        self._free = f" {glyphs.theory}{glyphs.ceiling}"  # what names and marks may be written over
        self.columns = picture.series.columns(layout.plot_width, picture.span_ns)
        rows = layout.plot_rows
        stacks = [stack(column, layout.scale, rows, glyphs) for column in self.columns]
        self.tops = [len(cells) for cells in stacks]  # the first free row of each column, from the bottom
        below = [[BLANK] * layout.width for _ in range(layout.height - rows)]
        self.canvas = Canvas(self._across([padded(cells, rows) for cells in stacks]) + below)

    def _across(self, stacks: list[list[Cell]]) -> list[list[Cell]]:
        """Columns, each from the bottom, as lines from the top with their margins."""
        left = [BLANK] * self.layout.left
        right = [BLANK] * (self.layout.width - self.layout.left - self.layout.plot_width)
        return [[*left, *cells, *right] for cells in reversed(list(zip(*stacks, strict=True)))]

    def _line(self, row: int) -> int:
        """A row counted from the bottom of the plot as a line of the canvas."""
        return self.layout.plot_rows - 1 - row

    def _side(self, line: int, label: str, char: str) -> None:
        self.canvas.write(line, 0, f"{label:>{self.layout.left - 2}} {char}", "label")

    def draw_bytes_axis(self) -> None:
        """The unit on top, round numbers below it."""
        layout, glyphs = self.layout, self.glyphs
        labels = {layout.scale.row(nbytes): text for nbytes, text in layout.axis.labels}
        for row in range(layout.plot_rows - 1):
            self._side(self._line(row), labels.get(row, ""), glyphs.side_tick if row in labels else glyphs.side)
        self._side(0, layout.axis.unit, glyphs.side)
        self._side(layout.plot_rows, "0", glyphs.corner)
        self.canvas.write(layout.plot_rows, layout.left, glyphs.base * layout.plot_width, "label")

    def draw_levels(self) -> None:
        """The ceiling over the data, theory where nothing else is."""
        for nbytes, _, name in _levels(self.picture, self.layout.axis):
            row = self.layout.scale.row(nbytes)
            if row < self.layout.plot_rows:
                cells = self.canvas.rows[self._line(row)]
                draw_level = self._draw_ceiling if name == "ceiling" else self._draw_theory
                draw_level(cells, nbytes)

    def _draw_ceiling(self, cells: list[Cell], nbytes: int) -> None:
        for place, column in enumerate(self.columns, self.layout.left):
            crossed = column is not None and column.total_bytes > nbytes
            cells[place] = (self.glyphs.crossed if crossed else self.glyphs.ceiling, "ceiling")

    def _draw_theory(self, cells: list[Cell], _: int) -> None:
        for place in range(self.layout.left, self.layout.left + self.layout.plot_width):
            if cells[place] == BLANK:
                cells[place] = (self.glyphs.theory, "theory")

    def draw_marks(self) -> None:
        """Where the peak is, and where the run died."""
        peak, died = (
            None if t_ns is None else self.layout.column(t_ns, self.picture.span_ns)
            for t_ns in (self.picture.peak_ns, self.picture.died_ns)
        )
        if peak is not None:
            self._draw_peak(peak)
        if died is not None:
            self._draw_death(died)

    def draw_return(self) -> None:
        """A line down to the data where the load returned, with its name beside it; not where the picture ends."""
        if self.picture.returned_ns is None:
            return
        column = self.layout.column(self.picture.returned_ns, self.picture.span_ns)
        last = max((place for place, found in enumerate(self.columns) if found is not None), default=0)
        if column is None or column >= last:
            return
        place = self.layout.left + column
        for line in range(self.layout.plot_rows - self.tops[column]):
            if self.canvas.rows[line][place] == BLANK:
                self.canvas.write(line, place, self.glyphs.returned, "label")
        for line in range(self.layout.plot_rows):
            if self._name_return(line, place):
                return

    def _name_return(self, line: int, place: int) -> bool:
        """Write the name on one side of the line, where nothing else is; say whether there was room."""
        cells, room = self.canvas.rows[line], len(_RETURNED) + 2
        right, left = cells[place + 1 : place + 1 + room], cells[max(place - room, self.layout.left) : place]
        if cells[place][0] != self.glyphs.returned:
            return False
        if right == [BLANK] * room:
            self.canvas.write(line, place + 2, _RETURNED, "label")
        elif left == [BLANK] * room:
            self.canvas.write(line, place - len(_RETURNED) - 1, _RETURNED, "label")
        else:
            return False
        return True

    def _draw_peak(self, column: int) -> None:
        # A bin that lies across an edge between columns may be drawn in the neighbour.
        near = range(max(column - 1, 0), min(column + 2, self.layout.plot_width))
        column = max(near, key=lambda place: (self._total_bytes(place), place == column))
        for row in range(self.tops[column], min(self.tops[column] + 2, self.layout.plot_rows)):
            cells = self.canvas.rows[self._line(row)]
            if cells[self.layout.left + column][0] in self._free:  # anything but the ceiling being crossed
                cells[self.layout.left + column] = (self.glyphs.peak, "answer")
                return

    def _draw_death(self, column: int) -> None:
        top = next((top for top in reversed(self.tops[: column + 1]) if top), 0)
        place = self.layout.left + column
        for row in range(top):
            cells = self.canvas.rows[self._line(row)]
            if cells[place][1] != "ceiling":
                cells[place] = (self.glyphs.dying, "trouble")
        self.canvas.rows[self._line(min(top, self.layout.plot_rows - 1))][place] = (self.glyphs.death, "trouble")

    def _total_bytes(self, column: int) -> int:
        found = self.columns[column]
        return found.total_bytes if found else -1

    def name_levels(self) -> None:
        """The name of each line at its right end or where it has room for it, else a row above or below."""
        for nbytes, text, name in sorted(_levels(self.picture, self.layout.axis)):
            row = self.layout.scale.row(nbytes)
            if row < self.layout.plot_rows:
                end = self.layout.width - len(text) - 1
                self._name_level(text, name, [(row, self.layout.left), (row + 1, end), (row - 1, end)])
            else:
                self._name_level(f"{self.glyphs.beyond} {name} {format_bytes(nbytes)}", name, [(row, self.layout.left)])

    def _name_level(self, text: str, name: str, places: list[tuple[int, int]]) -> None:
        """Write it into the first of these rows that has room for it, not before that column."""
        for row, begin in places:
            line = max(self._line(row), 0)
            if line < self.layout.plot_rows and self.canvas.write_right(line, text, name, self._free, begin):
                return

    def draw_time_axis(self) -> None:
        """Ticks where phases begin and at round times, the phases' names, and the times where there is room."""
        layout, glyphs, span_ns = self.layout, self.glyphs, self.picture.span_ns
        begins = [(layout.column(max(t_ns, 0), span_ns), name) for t_ns, name in self.picture.phases]
        seen = [(column, narrow(name)) for column, name in begins if column is not None]
        for column, _ in seen:
            if column:
                self.canvas.write(layout.plot_rows, layout.left + column, glyphs.phase_tick, "label")
        if layout.phase_row is not None:
            for column, text in phase_ruler(seen, layout.width - layout.left, glyphs.border, glyphs.cut):
                self.canvas.write(layout.phase_row, layout.left + column, text, "label")
        if layout.time_row is not None:
            self._draw_times(layout.time_row)

    def _draw_times(self, line: int) -> None:
        """On a line below the names of the phases, or else over the axis: a phase's tick has its border below it."""
        layout, glyphs = self.layout, self.glyphs
        ticks = self.canvas.rows[layout.plot_rows]
        below = line != layout.plot_rows
        if below:
            self.canvas.write(line, layout.left, "0", "label")
        for t_ns, text in time_marks(max(self.picture.span_ns, 1), layout.plot_width):
            place = layout.left + (layout.column(t_ns, self.picture.span_ns) or 0)
            begin = min(place - len(text) // 2, layout.width - len(text))
            if below:
                both = ticks[place][0] == glyphs.phase_tick
                ticks[place] = (glyphs.both_ticks if both else glyphs.time_tick, "label")
            self.canvas.write(line, begin, text, "label")

    def draw_device(self) -> None:
        """The device's memory on the same axis of time, or why it is not there."""
        layout, total_bytes = self.layout, self.picture.vram_total_bytes
        if layout.note_row is not None:
            note = cut_to(narrow(self.picture.vram_note), layout.width - layout.left, self.glyphs.cut)
            self.canvas.write(layout.note_row, layout.left, note, "quiet")
        if not layout.lane_rows:
            return
        theory, width = self.picture.vram_theory, layout.plot_width
        if total_bytes is None:
            used, style = [theory[at * len(theory) // width] for at in range(width)], "theory"
        else:
            used, style = [column.vram_bytes or 0 if column else 0 for column in self.columns], "vram"
        # As high as what is used: on a large device a model would be a flat line, and full is what the words say.
        scale = Scale(max(self.picture.vram_axis_bytes, *used, 1), layout.lane_rows)
        stacks = [padded(solid(scale.seen_eighths(nbytes), style, self.glyphs), layout.lane_rows) for nbytes in used]
        first, end = layout.lane_first, layout.lane_first + layout.lane_rows
        self.canvas.rows[first:end] = self._across(stacks)
        for line in range(first, end):
            self._side(line, "VRAM" if line == first else "", self.glyphs.side)
        for line, text in enumerate(_device_texts(self.picture, max(used)), first):
            self.canvas.write_right(line, text, style, " ")
