"""Finished runs beside each other: a table, and a chart of peak against theory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.script_words import floor_bytes
from meminspect.analysis.words import OUTCOME_WORDS, names
from meminspect.renderables.scale import scaled, unit_for
from meminspect.renderables.texts import table
from meminspect.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from meminspect.analysis.repeats import Group

    Run = Mapping[str, Any]

__all__ = ["chart", "repeats_table", "result_table"]

_MEASURED: Final = ("█", "#")  # in UTF-8, in ASCII
_THEORY: Final = ("░", "-")
_FRAME_ROWS: Final = 4  # title, frame, and the scale


def result_table(runs: Sequence[Run]) -> Table:
    """One unit for all sizes, named in the head, so that they can be compared at a glance and 80 columns suffice."""
    predicted = [run["theory"]["peak_rss_bytes"] for run in runs if run["theory"]]
    of_scripts = [run["peak"]["rss_bytes"] or 0 for run in runs if run.get("script")]
    largest = max((*predicted, *of_scripts), default=0)
    unit, name = unit_for(largest)
    on_device = any(run.get("device") for run in runs)  # then the host's share of the floor says nothing
    fifth = f"vram {name}" if on_device else "× floor"
    columns = ("strategy", f"heap {name}", f"file {name}", "theory", fifth, "returned", "resident", "outcome")
    rows = [_row(name, run, unit, on_device=on_device) for name, run in zip(names(runs), runs, strict=True)]
    return table(columns, rows, gap=1)  # or the longest outcomes would be cut


def _row(name: str, run: Run, unit: int, *, on_device: bool) -> list[str]:
    peak, theory = run["peak"], run["theory"] or {}
    floor, predicted = floor_bytes(run), theory.get("peak_rss_bytes")
    return [
        name,
        scaled(peak["heap_bytes"], unit),
        scaled(peak["file_bytes"], unit),
        scaled(predicted, unit),
        _of_device(run, unit) if on_device else scaled(peak["rss_bytes"], floor) if floor else "–",
        format_duration(run["returned_s"]),
        format_duration(run["resident_s"]),
        OUTCOME_WORDS.get(run["outcome"], str(run["outcome"])),
    ]


def _of_device(run: Run, unit: int) -> str:
    """What tensors took of the device."""
    return scaled((run.get("device") or {}).get("allocated_bytes"), unit)


def repeats_table(found: Sequence[Group]) -> Table:
    """A line a strategy: medians, with the range of the time that matters."""
    largest = max((peak.median for group in found if (peak := group.peak("rss_bytes"))), default=0)
    unit, name = unit_for(int(largest))
    columns = ("strategy", f"heap {name}", f"file {name}", "× floor", "returned", "resident (range)", "done")
    return table(columns, [_medians(group, unit) for group in found], gap=1)


def _medians(group: Group, unit: int) -> list[str]:
    heap, file, total = (group.peak(f"{pool}_bytes") for pool in ("heap", "file", "rss"))
    returned, resident = group.time("returned_s"), group.time("resident_s")
    floor = floor_bytes(group.typical)
    return [
        group.strategy,
        scaled(heap and heap.median, unit),
        scaled(file and file.median, unit),
        scaled(total and total.median, floor) if floor else "–",
        format_duration(returned and returned.median),
        resident.seconds() if resident else "–",
        f"{len(group.good)}/{len(group.runs)}",
    ]


def chart(runs: Sequence[Run], width: int, *, ascii_only: bool) -> str:
    """Bars of measured peak and theory; empty when nothing was measured, or nothing was there.

    Drawn by plotext, without colours: the two kinds of bar differ in their marks.
    """
    drawn = [
        (name, run)
        for name, run in zip(names(runs), runs, strict=True)
        if run["peak"]["rss_bytes"] is not None and run["theory"]
    ]
    if not drawn:
        return ""
    labels, measured = zip(*drawn, strict=True)
    plotext: Any = importlib.import_module("plotext")  # which has no types to lose
    figures = [(run["peak"]["rss_bytes"], run["theory"]["peak_rss_bytes"]) for run in measured]
    largest = max(map(max, figures))
    if not largest:  # nothing of nothing: there is no scale to draw it to
        return ""
    unit, unit_name = unit_for(largest)
    marks = [_MEASURED[ascii_only], _THEORY[ascii_only]]
    rows = 3 * len(measured) - 1  # measured, theory, a gap
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)  # we know the width
    plotext.plot_size(min(width - 1, 100), rows + _FRAME_ROWS)
    heights = []
    for index, pair in enumerate(figures):
        height = rows - 3 * index  # plotext counts upwards; we read downwards
        heights.append(height)
        for below, nbytes in enumerate(pair):
            plotext.bar([height - below], [nbytes / unit], orientation="horizontal", width=0.5, marker=marks[below])
    plotext.yticks(heights, list(labels))
    plotext.ylim(1, rows)
    plotext.xlim(0, largest / unit)
    plotext.title(f"peak above baseline in {unit_name}: {marks[0]} measured, {marks[1]} theory")
    return str(plotext.uncolorize(plotext.build())).rstrip()
