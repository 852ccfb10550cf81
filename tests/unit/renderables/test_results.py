"""Runs beside each other: a table and a chart, to the letter."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.theme import Theme

from meminspect.analysis.follow import RunView
from meminspect.analysis.repeats import groups
from meminspect.analysis.words import OUTCOME_WORDS
from meminspect.renderables.palette import STYLES
from meminspect.renderables.results import chart, repeats_table, result_table
from meminspect.units import use_decimal

GIB = 1 << 30
MIB = 1 << 20
Run = dict[str, Any]


def a_run(strategy: str = "naive", heap: int = 6 * GIB, file: int = GIB, **changes: Any) -> Run:
    run: Run = {
        "strategy": strategy,
        "outcome": "completed",
        "peak": {"heap_bytes": heap, "file_bytes": file, "rss_bytes": heap + file},
        "theory": {"floor_bytes": 2 * GIB, "peak_rss_bytes": 6 * GIB},
        "returned_s": 1.5,
        "resident_s": 2.25,
        "repeat": {"index": 1, "of": 1},
    }
    return {**run, **changes}


NOTHING = {"heap_bytes": None, "file_bytes": None, "rss_bytes": None}
DEAD = a_run("sharded", outcome="refused", peak=NOTHING, theory=None, returned_s=None, resident_s=None)


def printed(runs: list[Run], *, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, theme=Theme(STYLES)).print(result_table(runs))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_of_loads_to_a_device_the_table_has_what_tensors_took_of_it_within_80_columns() -> None:
    runs = [a_run("direct-device", device={"allocated_bytes": 4 * GIB}, outcome="out_of_memory"), a_run(device=None)]
    lines = printed(runs)
    assert lines[0] == "strategy      heap GiB file GiB theory vram GiB returned resident       outcome"
    assert lines[1].split()[1:5] == ["6.00", "1.00", "6.00", "4.00"]
    assert lines[2].split()[4] == "–"
    assert all(len(line) <= 80 for line in lines)


def test_runs_are_rows_in_one_unit_that_the_head_names() -> None:
    runs = [a_run(), a_run("mmap-assign", 0, 2 * GIB, resident_s=61.0), DEAD]
    assert printed(runs) == [
        "strategy     heap GiB file GiB theory × floor returned resident   outcome",
        "naive            6.00     1.00   6.00    3.50   1.50 s   2.25 s completed",
        "mmap-assign      0.00     2.00   6.00    1.00   1.50 s 1:01 min completed",
        "sharded             –        –      –       –        –        –   refused",
    ]


def test_decimal_units_are_asked_for() -> None:
    use_decimal(True)
    head, row = printed([a_run()])
    assert head.split()[1:5] == ["heap", "GB", "file", "GB"]
    assert row.split()[1:4] == ["6.44", "1.07", "6.44"]


@pytest.mark.parametrize(("predicted", "unit"), [(GIB, "GiB"), (GIB - 1, "MiB"), (0, "MiB"), (None, "MiB")])
def test_the_unit_is_that_of_the_largest_prediction(predicted: int | None, unit: str) -> None:
    theory = None if predicted is None else {"floor_bytes": 1, "peak_rss_bytes": predicted}
    assert printed([a_run(theory=theory)])[0].split()[2] == unit


def test_a_figure_has_as_many_digits_as_tell_something_apart() -> None:
    theory = {"floor_bytes": MIB, "peak_rss_bytes": 500 * MIB}
    small = a_run(heap=int(99.994 * MIB), file=100 * MIB, theory=theory)
    assert printed([small])[1].split()[1:5] == ["99.99", "100", "500", "200"]


def test_a_model_without_bytes_is_no_yardstick() -> None:
    assert printed([a_run(theory={"floor_bytes": 0, "peak_rss_bytes": GIB})])[1].split()[4] == "–"


def test_repetitions_are_numbered() -> None:
    runs = [a_run(repeat={"index": index, "of": 2}) for index in (1, 2)]
    assert [line[:9] for line in printed(runs)[1:]] == ["naive 1/2", "naive 2/2"]


def test_runs_that_wait_and_that_go_on_have_their_rows() -> None:
    waiting = RunView(Path("x")).document("naive", waits=True)
    absent = RunView(Path("x")).document("sharded", waits=False)
    running = RunView(Path("x"), facts={"spec": {"strategy": "mmap-assign"}}).document("?", waits=True)
    assert [line.split() for line in printed([waiting, absent, running])[1:]] == [
        ["naive", *"––––––", "waits"],
        ["sharded", *"––––––", "not", "run"],
        ["mmap-assign", *"––––––", "running"],
    ]


@pytest.mark.parametrize("outcome", OUTCOME_WORDS)
def test_every_outcome_finds_room_in_80_columns(outcome: str) -> None:
    lines = printed([a_run("mmap-assign", outcome=outcome, resident_s=3599.0, returned_s=3599.0)])
    assert len(lines) == 2, "nothing was folded"
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith(OUTCOME_WORDS[outcome])


def test_an_outcome_of_a_version_to_come_is_its_own_word() -> None:
    assert printed([a_run(outcome="abducted\x1b")])[1].endswith("abducted\\x1b")


# --- several rounds


def printed_rounds(runs: list[Run]) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=80, theme=Theme(STYLES)).print(repeats_table(groups(runs)))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_rounds_are_a_row_a_strategy_with_the_range_of_the_time() -> None:
    right: Run = {"tensors": {"mismatched": 0}}
    runs = [a_run(resident_s=seconds, **right) for seconds in (2.0, 4.0, 2.5)]
    dead = a_run("sharded", outcome="oom_killed", returned_s=None, resident_s=None, **right)
    assert printed_rounds([*runs, dead]) == [
        "strategy     heap GiB file GiB × floor returned   resident (range) done",
        "naive            6.00     1.00    3.50   1.50 s 2.50 s (2.00–4.00)  3/3",
        "sharded             –        –       –        –                  –  0/1",
    ]


def test_rounds_of_any_time_find_room_in_80_columns() -> None:
    for times in ((0.9, 59.99, 0.95), (3598.0, 3599.0, 3540.0), (1e-3, 0.9, 0.5)):
        runs = [
            a_run("mmap-assign", resident_s=time, returned_s=time, tensors={"mismatched": 0}) for time in (*times, 0.6)
        ]
        lines = printed_rounds(runs * 25)
        assert len(lines) == 2, "nothing was folded"
        assert lines[1].endswith("100/100")


# --- the chart


def test_the_chart_has_measured_and_theory_of_each_from_the_top() -> None:
    runs = [a_run(heap=3 * GIB, file=0, theory={"peak_rss_bytes": 6 * GIB}), a_run("sharded", 6 * GIB, 0)]
    lines = chart(runs, 60, ascii_only=False).splitlines()
    assert lines[0].strip() == "peak above baseline in GiB: █ measured, ░ theory"
    bars = [line for line in lines if "█" in line or "░" in line][1:]
    assert [(line[:8].strip(" ┤│"), "█" in line, "░" in line) for line in bars] == [
        ("naive", True, False), ("", False, True), ("sharded", True, False), ("", False, True),
    ]  # fmt: skip
    lengths = [line.count("█") + line.count("░") for line in bars]
    assert lengths[1] == lengths[2] == lengths[3]
    assert lengths[0] == pytest.approx(lengths[1] / 2, abs=1)
    assert max(map(len, lines)) <= 60


def test_without_unicode_its_bars_are_ascii() -> None:
    use_decimal(True)
    drawing = chart([a_run()], 60, ascii_only=True)
    assert "peak above baseline in GB: # measured, - theory" in drawing
    assert not set("█░") & set(drawing)


def test_runs_of_one_strategy_are_told_apart() -> None:
    runs = [a_run(repeat={"index": index, "of": 2}) for index in (1, 2)]
    drawing = chart(runs, 80, ascii_only=False)
    assert "naive 1" in drawing
    assert "naive 2" in drawing


def test_what_was_not_measured_or_not_predicted_is_not_drawn() -> None:
    assert chart([], 80, ascii_only=False) == ""
    assert chart([DEAD, a_run(theory=None)], 80, ascii_only=False) == ""
    assert "sharded" not in chart([DEAD, a_run()], 80, ascii_only=False)


def test_on_a_wide_terminal_it_does_not_grow_for_ever() -> None:
    lines = chart([a_run()], 400, ascii_only=False).splitlines()
    assert max(map(len, lines)) == 100, "whatever terminal this test has"


def test_given_a_run_of_nothing_then_no_chart_divides_by_it() -> None:
    run = a_run(heap=0, file=0)
    nothing = {**run, "theory": {**run["theory"], "peak_rss_bytes": 0}}
    assert chart([nothing], 80, ascii_only=False) == ""
