"""What runs took, for a person: a sentence each, a table, and a chart of peak against theory."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

from meminspect.cli import output
from meminspect.theory.ledger import Item
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    Run = Mapping[str, Any]

__all__ = ["bill", "chart", "sentence", "show"]

_WORDS: Final = {
    "completed": "completed",
    "oom_killed": "OOM-killed",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "signalled": "killed",
    "timed_out": "timed out",
    "cancelled": "cancelled",
    "refused": "refused",
}
_MEASURED: Final = ("█", "#")  # in UTF-8, in ASCII
_THEORY: Final = ("░", "-")
_FRAME_ROWS: Final = 4  # title, frame, and the scale


def show(runs: Sequence[Run], *, decimal: bool) -> None:
    """Print everything about finished runs to stdout."""
    if not runs:
        return
    console = output.stdout()
    for run in runs:
        console.print(output.safe(sentence(run, decimal=decimal), "answer" if _completed(run) else "trouble"))
        if run["bill"]:
            console.print(output.safe(f"  = {bill(run, decimal=decimal)}", "quiet"))
    console.print()
    console.print(_table(runs, decimal=decimal))
    drawing = chart(runs, console.width, decimal=decimal, ascii_only=output.ascii_only(console))
    if drawing:
        console.print()
        for line in drawing.splitlines():
            console.print(output.safe(line), soft_wrap=True)
    console.print()
    console.print(output.safe("capture" if len(runs) == 1 else "captures", "label"))
    for run in runs:
        console.print(output.safe(f"  {_from_home(run['capture'])}"), soft_wrap=True)
    console.print(output.safe("meminspect export CAPTURE --to json (or csv) takes one apart", "quiet"))


def _from_home(path: str) -> str:
    """A path as a shell takes it, and short."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    return f"~{path[len(home) :]}" if path.startswith(f"{home.rstrip('/')}/") else path


def sentence(run: Run, *, decimal: bool) -> str:
    """The answer in words."""
    name, outcome, peak = run["strategy"], run["outcome"], run["peak"]["rss_bytes"]
    if not _completed(run):
        return f"{name}: {run['message'] or _WORDS.get(outcome, outcome)}"
    floor = run["theory"]["floor_bytes"]
    times = f", {peak / floor:.2f} × the model" if floor else ""
    place = f" in '{run['peak_at']['phase']}'" + (f" at {run['peak_at']['tensor']}" if run["peak_at"]["tensor"] else "")
    words = f"{name} peaked at {format_bytes(peak, decimal=decimal)}{times},{place}"
    wrong = run["tensors"]["mismatched"]
    lost = run["overhead"]["events_lost"]
    if lost:
        words += f"; {lost:,} events found no room, so its place and its bill are incomplete"
    if wrong:
        words += f"; {wrong} tensors differ from the checkpoint"
    return f"{words}; {run['message']}" if run["message"] else words


def bill(run: Run, *, decimal: bool) -> str:
    """What the peak was made of, in one line; what nothing explains is left out where it is under a hundredth."""
    whole = run["peak"]["rss_bytes"]
    parts: list[str] = []
    for line in run["bill"]:
        if line["item"] == Item.UNEXPLAINED and abs(line["bytes"]) * 100 < whole:
            continue
        pool = "" if line["pool"] in ("heap", None) else f" ({line['pool']})"
        sign = "− " if line["bytes"] < 0 else "+ " if parts else ""
        parts.append(f"{sign}{format_bytes(abs(line['bytes']), decimal=decimal)} {line['item']}{pool}")
    return " ".join(parts)


def _completed(run: Run) -> bool:
    return bool(run["outcome"] == "completed")


def _table(runs: Sequence[Run], *, decimal: bool) -> Table:
    """One unit for all sizes, named in the head, so that they can be compared at a glance and 80 columns suffice."""
    largest = max((run["theory"]["peak_rss_bytes"] for run in runs if run["theory"]), default=0)
    unit, name = _unit(largest, decimal=decimal)
    columns = ("strategy", f"heap {name}", f"file {name}", "theory", "× floor", "returned", "resident", "outcome")
    return output.table(columns, [_row(run, unit) for run in runs])


def _row(run: Run, unit: int) -> list[str]:
    peak, theory, repeat = run["peak"], run["theory"] or {}, run["repeat"]
    floor, predicted = theory.get("floor_bytes"), theory.get("peak_rss_bytes")
    return [
        run["strategy"] if repeat["of"] == 1 else f"{run['strategy']} {repeat['index']}/{repeat['of']}",
        _scaled(peak["heap_bytes"], unit),
        _scaled(peak["file_bytes"], unit),
        _scaled(predicted, unit),
        _scaled(peak["rss_bytes"], floor) if floor else "–",
        format_duration(run["returned_s"]),
        format_duration(run["resident_s"]),
        _WORDS.get(run["outcome"], str(run["outcome"])),
    ]


def _unit(largest_bytes: int, *, decimal: bool) -> tuple[int, str]:
    base, names = (1000, ("MB", "GB")) if decimal else (1024, ("MiB", "GiB"))
    return (base**3, names[1]) if largest_bytes >= base**3 else (base**2, names[0])


def _scaled(nbytes: int | None, unit: int) -> str:
    if nbytes is None:
        return "–"
    value = nbytes / unit
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"  # as many digits as tell something apart


def chart(runs: Sequence[Run], width: int, *, decimal: bool, ascii_only: bool) -> str:
    """Bars of measured peak and theory; empty when nothing was measured.

    Drawn by plotext, without colours: the two kinds of bar differ in their marks.
    """
    measured = [run for run in runs if run["peak"]["rss_bytes"] is not None and run["theory"]]
    if not measured:
        return ""
    plotext: Any = importlib.import_module("plotext")  # which has no types to lose
    figures = [(run["peak"]["rss_bytes"], run["theory"]["peak_rss_bytes"]) for run in measured]
    largest = max(map(max, figures))
    unit, unit_name = _unit(largest, decimal=decimal)
    marks = [_MEASURED[ascii_only], _THEORY[ascii_only]]
    rows = 3 * len(measured) - 1  # measured, theory, a gap
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(min(width - 1, 100), rows + _FRAME_ROWS)
    names = [run["strategy"] for run in measured]
    if len(set(names)) < len(names):
        names = [f"{name} {run['repeat']['index']}" for name, run in zip(names, measured, strict=True)]
    heights = []
    for index, pair in enumerate(figures):
        height = rows - 3 * index  # plotext counts upwards; we read downwards
        heights.append(height)
        for below, nbytes in enumerate(pair):
            plotext.bar([height - below], [nbytes / unit], orientation="horizontal", width=0.5, marker=marks[below])
    plotext.yticks(heights, names)
    plotext.ylim(1, rows)
    plotext.xlim(0, largest / unit)
    plotext.title(f"peak above baseline in {unit_name}: {marks[0]} measured, {marks[1]} theory")
    return str(plotext.uncolorize(plotext.build())).rstrip()
