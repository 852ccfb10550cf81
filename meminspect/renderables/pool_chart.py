"""The highest moment of each pool beside theory's, as bars."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text

from meminspect.renderables.bill import Scale
from meminspect.renderables.palette import STYLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Run = Mapping[str, Any]

__all__ = ["pool_chart"]

_MEASURED, _THEORY = "█", "░"
_FRAME_ROWS: Final = 4  # title, frame and scale
_LEAST_WIDTH: Final = 52  # columns: labels and the title, which plotext would leave out
_MOST_WIDTH: Final = 100
_KEYS: Final = {
    "heap": "heap_bytes",
    "file": "file_bytes",
    "pinned": "pinned_bytes",
    "vram": "vram_allocated_bytes",
}
_ALWAYS: Final = ("heap", "file")


class _Bar(NamedTuple):
    """One bar; rows count from the top."""

    row: int
    label: str
    nbytes: int
    marker: str
    style: str


def pool_chart(run: Run, *, width: int, height: int) -> list[Text]:
    """Bars of each pool's peak above the baseline, measured and in theory.

    Drawn by plotext, whose state is global: to be called by one thread at a time.

    Args:
        run: the run's document (`analysis.run.run_document`).
        width: columns at most.
        height: rows at most.

    Returns:
        Lines; none when nothing was measured, or where there is no room.
    """
    if run["peak"]["heap_bytes"] is None:
        return []
    peaks = _peaks(run)
    scale = Scale.fit(max(figure or 0 for pair in peaks.values() for figure in pair))
    bars = _bars(peaks, scale)
    rows = bars[-1].row + 1
    if width < _LEAST_WIDTH or height < rows + _FRAME_ROWS:
        return []
    return [Text.from_ansi(line) for line in _drawn(bars, rows, min(width, _MOST_WIDTH), scale).splitlines()]


def _peaks(run: Run) -> dict[str, tuple[int | None, int | None]]:
    """By pool, in bytes: the measured peak and theory's; pools that neither side uses are left out."""
    theory = run["theory"]["peak"] if run["theory"] else {}
    pairs = {pool: (run["peak"].get(key), theory.get(key)) for pool, key in _KEYS.items()}
    return {pool: pair for pool, pair in pairs.items() if pool in _ALWAYS or any(pair)}


def _bars(peaks: Mapping[str, tuple[int | None, int | None]], scale: Scale) -> list[_Bar]:
    bars: list[_Bar] = []
    for pool, (measured, theory) in peaks.items():
        row = bars[-1].row + 2 if bars else 0
        for nbytes, name, marker, style in ((measured, pool, _MEASURED, pool), (theory, "theory", _THEORY, "theory")):
            if nbytes is not None:
                bars.append(_Bar(row, f"{name} {scale.text(nbytes)}", nbytes, marker, STYLES[style]))
                row += 1
    return bars


def _drawn(bars: Sequence[_Bar], rows: int, width: int, scale: Scale) -> str:
    plotext: Any = importlib.import_module("plotext")  # which has no types to lose
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)  # we know the size; the terminal's is not that of a widget
    plotext.plot_size(width, rows + _FRAME_ROWS)
    for bar in bars:
        plotext.bar(
            [rows - bar.row],  # plotext counts upwards
            [max(bar.nbytes, 0) / scale.unit_bytes],
            orientation="horizontal",
            width=0.5,
            marker=bar.marker,
            color=bar.style,
        )
    plotext.yticks([rows - bar.row for bar in bars], [bar.label for bar in bars])
    plotext.ylim(1, rows)
    plotext.xlim(0, max(1, *(bar.nbytes for bar in bars)) / scale.unit_bytes)
    plotext.title(f"peaks in {scale.name}: {_MEASURED} measured, {_THEORY} theory")
    return str(plotext.build())
