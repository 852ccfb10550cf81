"""The live picture of a run's memory, as a widget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from meminspect.analysis.device import gpu_loaded_to
from meminspect.renderables.timeline import Picture, axis_for, draw, is_near

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meminspect.analysis.follow import RunView

__all__ = ["RunChart", "Scale", "scale_for"]

_STEPS: Final = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)  # of a power of ten: a live axis moves by jumps, not at every frame
_UNKNOWN_SPAN_NS: Final = 1_000_000_000  # before anything has begun


class Scale(NamedTuple):
    """What width and height stand for; one for all panels that are compared."""

    span_ns: int
    axis_bytes: int
    vram_bytes: int = 0  # the device's


def scale_for(views: Iterable[RunView]) -> Scale:
    """Axes that hold all these runs: to their end, with room to go on for those that are under way."""
    every = list(views)
    ended = max((view.load_ns or 0 for view in every if view.resident or view.ended), default=0)
    going = max((view.load_ns or 0 for view in every if not view.resident and not view.ended), default=0)
    span = max(ended, _round_up(going) if going else 0) or _UNKNOWN_SPAN_NS
    peaks = [_highest_bytes(view) for view in every]
    ceilings = [view.ceiling_bytes for view in every if view.ceiling_bytes is not None]
    vram_bytes = max((view.series.vram_high_bytes for view in every), default=0)
    return Scale(span, axis_for(peaks, min(ceilings, default=None)), vram_bytes)


def _highest_bytes(view: RunView) -> int:
    """What a run's picture must show: theory too, unless the run died so far below it that it would be squashed."""
    theory_bytes = view.theory_bytes or 0
    if view.died and not is_near(theory_bytes, view.peak_bytes):
        return view.peak_bytes
    return max(view.peak_bytes, theory_bytes)


def _round_up(nanoseconds: int) -> int:
    power = 10 ** (len(str(nanoseconds)) - 1)
    return next(int(step * power) for step in _STEPS if step * power >= nanoseconds)


class RunChart(Widget):
    """Draws one run. `show` is cheap; lines are made when Textual asks for them.

    Args:
        id: the widget's.
        alone: no other chart beside it has the same remark on the device's memory.
    """

    DEFAULT_CSS = "RunChart { height: 1fr; }"

    def __init__(self, *, id: str | None = None, alone: bool = True) -> None:  # noqa: A002 - as all widgets call it
        super().__init__(id=id)
        self._alone = alone
        self._shown: tuple[RunView, Scale] | None = None
        self._strips: list[Strip] = []
        self._drawn_size = Size(0, 0)

    def show(self, view: RunView, scale: Scale) -> None:
        """Draw a run from now on."""
        if self._shown is None or self._shown[0] is not view or self._shown[1] != scale:
            self._shown, self._strips = (view, scale), []
            self.refresh()

    def notify_style_update(self) -> None:
        """A theme has changed: nothing that was drawn is kept."""
        super().notify_style_update()
        self._strips = []

    def render_line(self, y: int) -> Strip:
        """One line of the picture."""
        if self._shown is None or self.size.width < 20 or self.size.height < 3:
            return Strip.blank(self.size.width, self.rich_style)
        if self._drawn_size != self.size:
            self._strips, self._drawn_size = [], self.size
        if not self._strips:
            lines = draw(_picture(*self._shown, alone=self._alone), self.size.width, self.size.height)
            self._strips = [Strip(line, self.size.width).apply_style(self.rich_style) for line in lines]
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)


def _picture(view: RunView, scale: Scale, *, alone: bool) -> Picture:
    vram, gpu = view.facts.get("vram") or {}, gpu_loaded_to(view.facts.get)
    note = vram.get("reason", "")
    return Picture(
        series=view.series,
        span_ns=scale.span_ns,
        axis_bytes=scale.axis_bytes,
        theory_bytes=view.theory_bytes,
        ceiling_bytes=view.ceiling_bytes,
        phases=view.phases,
        returned_ns=view.returned_ns,
        peak_ns=_peak_ns(view),
        died_ns=view.load_ns if view.died else None,
        vram_total_bytes=gpu["total_bytes"] if gpu and not note else None,
        vram_axis_bytes=scale.vram_bytes,
        vram_note=f"vram: {note}" if note and alone else "",
        vram_theory=tuple(vram.get("theory_bytes") or ()),
    )


def _peak_ns(view: RunView) -> int | None:
    """Where the peak is; once the run has ended, where the sentence above the picture says that it was."""
    if view.result is not None and view.result["peak_at"]["t_s"] is not None:
        return int(view.result["peak_at"]["t_s"] * 1e9)
    return view.peak_ns if view.peak_bytes else None
