"""What runs took, for a person: a sentence each, a table, and a chart of peak against theory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from meminspect.analysis.attribution import attribution_line
from meminspect.analysis.device_words import device_lines
from meminspect.analysis.repeats import comparison, groups, repeated
from meminspect.analysis.repeats import sentence as in_rounds
from meminspect.analysis.script_words import script_lines
from meminspect.analysis.steady import retained
from meminspect.analysis.storage_words import storage_lines
from meminspect.analysis.words import advice, bill, completed, no_pools, sentence
from meminspect.cli import output
from meminspect.renderables.results import chart, repeats_table, result_table
from meminspect.renderables.texts import safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    Run = Mapping[str, Any]

__all__ = ["show"]


def show(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print everything about finished runs, to stdout unless told otherwise; of several rounds what is common."""
    if not runs:
        return
    console = console or output.stdout()
    tried = {run["strategy"] for run in runs}
    series = groups(runs) if repeated(runs) else None
    drawn = runs if series is None else [group.typical for group in series]
    for index, run in enumerate(drawn):
        words = sentence(run) if series is None else in_rounds(series[index])
        console.print(safe(words, "answer" if completed(run) else "trouble"))
        if run["bill"]:
            if len(run["bill"]) > 1 or not run["script"]:  # a script need not touch a tensor
                console.print(safe(f"  = {bill(run)}", "quiet"))
            kept = retained(run)
            lines = (
                *script_lines(run),
                *device_lines(run),
                *storage_lines(run),
                kept,
                no_pools(run),
                attribution_line(run),
            )
            for line in filter(None, lines):
                console.print(safe(f"  {line}", "quiet"))
        if run.get("better") and run["better"]["strategy"] not in tried:
            console.print(safe(f"  → {advice(run)}", "answer"))
    console.print()
    if series is None:
        console.print(result_table(runs))
    else:
        console.print(repeats_table(series))
        _print_comparison(runs, console)
        drawn = [{**run, "repeat": {"index": 1, "of": 1}} for run in drawn]  # which needs no number beside it
    _print_chart(drawn, console)
    _print_captures([run["capture"] for run in runs], console)


def _print_comparison(runs: Sequence[Run], console: Console) -> None:
    statements = comparison(runs)
    if statements:
        console.print()
    for words in statements:
        console.print(safe(words, "answer"))


def _print_chart(runs: Sequence[Run], console: Console) -> None:
    drawing = chart(runs, console.width, ascii_only=output.ascii_only(console))
    if drawing:
        console.print()
        for line in drawing.splitlines():
            console.print(safe(line), soft_wrap=True)


def _print_captures(paths: Sequence[str], console: Console) -> None:
    console.print()
    console.print(safe("capture" if len(paths) == 1 else "captures", "label"))
    for path in paths:
        console.print(safe(f"  {_from_home(path)}"), soft_wrap=True)
    console.print(safe("meminspect export CAPTURE --to json (or csv) takes one apart", "quiet"))


def _from_home(path: str) -> str:
    """A path as a shell takes it, and short."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    return f"~{path[len(home) :]}" if path.startswith(f"{home.rstrip('/')}/") else path
