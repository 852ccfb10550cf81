"""What runs took, for a person: a sentence each, a table, and a chart of peak against theory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from meminspect.cli import output
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    Run = Mapping[str, Any]

__all__ = ["chart", "sentence", "show"]

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


def show(runs: Sequence[Run], *, decimal: bool) -> None:
    """Print everything about finished runs to stdout."""
    if not runs:
        return
    console = output.stdout()
    for run in runs:
        console.print(output.safe(sentence(run, decimal=decimal), "" if run["outcome"] == "completed" else "trouble"))
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
        console.print(output.safe(f"  {run['capture']}"), soft_wrap=True)


def sentence(run: Run, *, decimal: bool) -> str:
    """The answer in words."""
    name, outcome, peak = run["strategy"], run["outcome"], run["peak"]["rss_bytes"]
    if outcome != "completed":
        return f"{name}: {run['message'] or _WORDS.get(outcome, outcome)}"
    floor = run["theory"]["floor_bytes"]
    times = f", {peak / floor:.2f} × the model" if floor else ""
    place = f" in '{run['peak_at']['phase']}'" + (f" at {run['peak_at']['tensor']}" if run["peak_at"]["tensor"] else "")
    words = f"{name} peaked at {format_bytes(peak, decimal=decimal)}{times},{place}"
    wrong = run["tensors"]["mismatched"]
    return f"{words}; {wrong} tensors differ from the checkpoint" if wrong else words


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
    return "–" if nbytes is None else f"{nbytes / unit:.2f}"


def chart(runs: Sequence[Run], width: int, *, decimal: bool, ascii_only: bool) -> str:
    """Bars of measured peak and theory; empty when nothing was measured.

    Drawn by plotext, without colours: the two kinds of bar differ in their marks.
    """
    measured = [run for run in runs if run["peak"]["rss_bytes"] is not None and run["theory"]]
    if not measured:
        return ""
    plotext: Any = importlib.import_module("plotext")  # which has no types to lose
    unit, unit_name = _unit(max(run["theory"]["peak_rss_bytes"] for run in measured), decimal=decimal)
    marks = [_THEORY[ascii_only], _MEASURED[ascii_only]]
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(min(width - 1, 100), 3 * len(measured) + 4)
    names = [run["strategy"] for run in measured]
    if len(set(names)) < len(names):
        names = [f"{name} {run['repeat']['index']}" for name, run in zip(names, measured, strict=True)]
    # plotext counts bars upwards; we read downwards.
    heights = [
        [run["theory"]["peak_rss_bytes"] / unit for run in reversed(measured)],
        [run["peak"]["rss_bytes"] / unit for run in reversed(measured)],
    ]
    plotext.multiple_bar(names[::-1], heights, orientation="horizontal", width=2 / 3, marker=marks)
    plotext.title(f"peak above baseline in {unit_name}: {marks[1]} measured, {marks[0]} theory")
    return str(plotext.uncolorize(plotext.build())).rstrip()
