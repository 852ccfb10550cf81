"""The lines above a run's picture: exact text, and what its parts mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.follow import Held, RunView
from meminspect.capture.records import Reading, Resident
from meminspect.renderables.headline import headline, provenance, starting, title
from meminspect.renderables.palette import STYLES

if TYPE_CHECKING:
    from rich.text import Text

GIB = 1 << 30
MIB = 1 << 20
S = 1_000_000_000
BASE = Reading(200 * MIB, 100 * MIB, 0, 300 * MIB)
FACTS: dict[str, Any] = {
    "spec": {"strategy": "naive"},
    "theory": {"peak_rss_bytes": 5 * GIB},
    "plan": {"work_bytes": 4 * GIB},
}
HOSTILE = "\x1b[31m\nlayers.0.größe.重み.weight"
BROKEN_PLACE = {"t_s": None, "phase": None, "tensor": None}


def loading(**changes: Any) -> RunView:
    """A load at a quarter of its work, after 2 s."""
    fields: dict[str, Any] = {
        "facts": FACTS,
        "phase": "read",
        "tensor": "layers.0.attention.wq.weight",
        "done_bytes": GIB,
        "load_ns": 2 * S,
        "held": Held(GIB, 512 * MIB, 0),
        "peaks": Held(GIB, 512 * MIB, 0),
        "peak_bytes": 2 * GIB,
        "baseline": BASE,
    }
    return RunView(Path("x"), **{**fields, **changes})


def result(**changes: Any) -> dict[str, Any]:
    """A completed run of 2 GiB of model that peaked at 5."""
    run: dict[str, Any] = {
        "strategy": "naive",
        "outcome": "completed",
        "message": "",
        "peak": {"rss_bytes": 5 * GIB},
        "peak_at": {"t_s": 1.0, "phase": "copy", "tensor": "w"},
        "theory": {"floor_bytes": 2 * GIB},
        "bill": [
            {"item": "floor", "pool": "heap", "bytes": 2 * GIB},
            {"item": "shard", "pool": "heap", "bytes": 3 * GIB},
        ],
        "tensors": {"verified": 12, "expected": 12, "mismatched": 0},
        "overhead": {"events_lost": 0},
        "cache": {"state": "cold"},
        "returned_s": 1.5,
        "resident_s": 2.25,
        "better": {"strategy": "mmap-assign", "peak": {"heap_bytes": 0, "pinned_bytes": 0, "file_bytes": 2 * GIB}},
    }
    return {**run, **changes}


def ended(**changes: Any) -> RunView:
    return loading(result=result(**changes), outcome={"outcome": "completed"})


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


def style_of(line: Text, part: str) -> str:
    """The style of the first span that holds a part of a line; empty for none."""
    at = line.plain.index(part)
    return next((str(span.style) for span in line.spans if span.start <= at < span.end), str(line.style))


# --- before the load


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facts": {}}, "run · starting …"),
        ({}, "naive · starting …"),
        ({"phase": "import"}, "naive · importing torch …"),
        ({"phase": "warm-up"}, "naive · warming up on a tiny checkpoint …"),
        ({"preparing": "reading the files", "phase": "import"}, "naive · reading the files …"),
        ({"phase": "dance\x1b"}, "naive · dance\\x1b …"),
    ],
)
def test_before_the_load_it_is_one_line_of_what_is_being_done(changes: dict[str, Any], words: str) -> None:
    view = RunView(Path("x"), **{"facts": FACTS, **changes})
    assert plain(headline(view, 80)) == [words]
    assert style_of(headline(view, 80)[0], words) == "answer"


# --- while it loads


@pytest.mark.parametrize(
    ("width", "bar", "baseline"),
    [(120, "━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ ", " · baseline 300.00 MiB"), (80, "━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌ ", ""), (62, "", "")],
)
def test_while_it_loads_it_is_what_how_far_and_how_much(width: int, bar: str, baseline: str) -> None:
    assert plain(headline(loading(), width)) == [
        "naive · reading layers.0.attention.wq.weight",
        f"{bar}25 % of 4.00 GiB of work, 512.00 MiB/s · 2.00 s · 6.00 s left",
        f"█ heap 1.00 GiB · ░ file 512.00 MiB · peak 2.00 GiB of 5.00 GiB predicted{baseline}",
    ]


def test_its_parts_are_told_from_each_other_by_what_they_mean() -> None:
    first, bar, memory = headline(loading(peaks=Held(1, 1, 1)), 120)
    assert style_of(first, "naive") == style_of(bar, "━") == "answer"
    assert style_of(bar, "╌") == style_of(memory, "baseline") == "quiet"
    assert [style_of(memory, mark) for mark in "█░▓"] == ["heap", "file", "pinned"]
    assert style_of(memory, "peak 2.00") == ""
    used = {str(span.style) for line in (first, bar, memory) for span in line.spans}
    assert used <= {"", *STYLES}, "the palette knows every style"


def test_pinned_memory_is_said_once_there_has_been_some() -> None:
    line = headline(loading(held=Held(0, 0, 0), peaks=Held(0, 0, MIB)), 80)[2]
    assert line.plain.startswith("█ heap 0 B · ░ file 0 B · ▓ pinned 0 B · peak ")


def test_what_is_below_the_baseline_counts_as_nothing() -> None:
    line = headline(loading(held=Held(-4096, -4096, 0)), 80)[2]
    assert line.plain.startswith("█ heap 0 B · ░ file 0 B · peak ")


def test_given_neither_theory_nor_work_then_only_what_is_known_is_said() -> None:
    view = loading(facts={"spec": {"strategy": "naive"}}, done_bytes=5)
    assert plain(headline(view, 80))[1:] == [
        "2.00 s",
        "█ heap 1.00 GiB · ░ file 512.00 MiB · peak 2.00 GiB · baseline 300.00 MiB",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load_ns": 0, "done_bytes": 0}, "╌" * 24 + " 0 % of 4.00 GiB of work · 0 µs"),
        ({"load_ns": 0}, "━" * 6 + "╌" * 18 + " 25 % of 4.00 GiB of work · 0 µs"),
        ({"done_bytes": 0}, "╌" * 24 + " 0 % of 4.00 GiB of work · 2.00 s"),
        ({"done_bytes": 4 * GIB - 1}, "━" * 24 + " 99 % of 4.00 GiB of work, 2.00 GiB/s · 2.00 s · 0 µs left"),
        ({"done_bytes": 4 * GIB}, "━" * 24 + " 100 % of 4.00 GiB of work, 2.00 GiB/s · 2.00 s · done"),
        ({"done_bytes": 8 * GIB}, "━" * 24 + " 100 % of 4.00 GiB of work, 4.00 GiB/s · 2.00 s · done"),
    ],
)
def test_progress_at_its_edges(changes: dict[str, Any], words: str) -> None:
    assert headline(loading(**changes), 120)[1].plain == words


def test_a_hostile_name_is_escaped_and_keeps_its_end() -> None:
    assert headline(loading(tensor=HOSTILE), 80)[0].plain == ("naive · reading \\x1b[31m\\nlayers.0.größe.重み.weight")
    assert headline(loading(tensor="x" * 100 + "tail"), 40)[0].plain == "naive · reading …" + "x" * 19 + "tail"


def test_where_there_is_no_room_for_a_name_there_is_none() -> None:
    assert headline(loading(), 24)[0].plain == "naive · reading"
    assert headline(loading(), 25)[0].plain == "naive · reading …q.weight"
    assert headline(loading(tensor=""), 80)[0].plain == "naive · reading"


@given(st.text(max_size=150) | st.sampled_from(["\x1b" * 200, "重" * 200, "\U0001f600" * 90]), st.integers(30, 130))
def test_no_name_makes_the_first_line_wider_than_the_screen(name: str, width: int) -> None:
    line = headline(loading(tensor=name), width)[0]
    assert line.cell_len <= width
    assert line.plain.isprintable()


# --- when it has ended


def test_a_completed_run_is_the_answer_the_excess_the_advice_and_the_times() -> None:
    expected = [
        "naive peaked at 5.00 GiB, 2.50 × the model, in 'copy' at w.",
        "Not the model: 60 % of the peak, 3.00 GiB: shard.",
        "→ mmap-assign: no heap, 2.00 GiB of reclaimable file pages (i: recipe)",
    ]
    known = "returned after 1.50 s · resident after 2.25 s · cold page cache"
    assert plain(headline(ended(), 80)) == [*expected, known]
    assert plain(headline(ended(), 120)) == [
        *expected,
        f"{known} · 12 of 12 tensors verified · baseline 300.00 MiB",
    ]


def test_its_answer_stands_out_and_its_times_do_not() -> None:
    answer, words, better, known = headline(ended(), 120)
    assert [style_of(line, line.plain) for line in (answer, words, better, known)] == ["answer", "", "answer", "quiet"]


def test_given_nothing_better_then_nothing_is_advised() -> None:
    assert not any("→" in line for line in plain(headline(ended(better=None), 80)))


def test_given_a_capture_of_an_older_version_then_it_is_read_all_the_same() -> None:
    run = result()
    del run["better"]
    assert headline(loading(result=run), 80)[0].plain.startswith("naive peaked at 5.00 GiB")


def test_a_dead_run_is_trouble_with_its_reason() -> None:
    nothing = {"tensors": dict.fromkeys(("verified", "expected", "mismatched")), "returned_s": None, "resident_s": None}
    view = ended(outcome="oom_killed", message=f"killed in 'read' at {HOSTILE}", **nothing)
    lines = headline(view, 80)
    assert plain(lines) == [
        "naive: killed in 'read' at \\x1b[31m\\nlayers.0.größe.重み.weight.",
        "Not the model: 60 % of the peak, 3.00 GiB: shard.",
        "→ mmap-assign: no heap, 2.00 GiB of reclaimable file pages (i: recipe)",
        "cold page cache · baseline 300.00 MiB",
    ]
    assert style_of(lines[0], "naive") == "trouble"


def test_a_run_that_never_began_is_its_reason_alone() -> None:
    nothing = {
        "peak": {"rss_bytes": None}, "peak_at": BROKEN_PLACE, "bill": None, "better": None, "theory": None,
        "tensors": {"verified": None}, "cache": {"state": None}, "returned_s": None, "resident_s": None,
    }  # fmt: skip
    view = RunView(Path("x"), result=result(outcome="refused", message="it would need 9.00 GiB", **nothing))
    assert plain(headline(view, 80)) == ["naive: it would need 9.00 GiB."]


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (20, ""),
        (21, "returned after 1.50 s"),
        (44, "returned after 1.50 s"),
        (45, "returned after 1.50 s · resident after 2.25 s"),
    ],
)
def test_of_the_times_there_are_as_many_as_find_room(width: int, words: str) -> None:
    assert headline(ended(), width)[-1].plain == words


# --- what is done before a load


def test_what_comes_before_the_load_is_a_list_with_what_is_done_what_is_not_and_what_will_be() -> None:
    view = RunView(Path("x"), facts=FACTS, steps=((0, "import"), (2_500_000_000, "warm-up")))
    lines = starting(view)
    assert plain(lines) == [
        "✓ importing torch                     2.50 s",
        "▸ warming up on a tiny checkpoint …",
        "· the load: predicted to peak at 5.00 GiB above what is there by then",
    ]
    assert [style_of(line, line.plain) for line in lines] == ["fits", "answer", "quiet"]


def test_before_anything_has_begun_it_is_starting_or_what_is_prepared() -> None:
    assert plain(starting(RunView(Path("x")))) == ["▸ starting …", "· the load"]
    assert plain(starting(RunView(Path("x"), preparing="dropping\x1b pages"))) == [
        "▸ dropping\\x1b pages …",
        "· the load",
    ]


def test_steps_of_somebody_elses_capture_drive_no_terminal() -> None:
    view = RunView(Path("x"), steps=((0, "\x1b[2J"), (1, "\x1b[2J")))
    assert all(line.plain.isprintable() for line in starting(view))


# --- a run in a few words


@pytest.mark.parametrize(
    ("view", "waits", "words"),
    [
        (RunView(Path("x")), True, "sharded waits"),
        (RunView(Path("x")), False, "sharded not run"),
        (RunView(Path("x"), facts=FACTS), True, "sharded … starting"),
        (RunView(Path("x"), facts=FACTS, phase="import"), True, "sharded … importing torch"),
        (loading(), True, "sharded 25 % 2.00 GiB"),
        (loading(done_bytes=9 * GIB), True, "sharded 100 % 2.00 GiB"),
        (loading(facts={"spec": {"strategy": "naive"}}), True, "sharded … reading"),
        (ended(), False, "sharded ✓ 5.00 GiB"),
        (ended(peak={"rss_bytes": GIB, "vram_allocated_bytes": 5 * GIB}), False, "sharded ✓ 5.00 GiB vram"),
        (ended(outcome="oom_killed"), False, "sharded ✗ OOM-killed 5.00 GiB"),
        (ended(outcome="refused", peak={"rss_bytes": None}), False, "sharded ✗ refused"),
    ],
)
def test_a_panels_title(view: RunView, waits: bool, words: str) -> None:
    assert title(view, "sharded", waits=waits).plain == words


def test_a_titles_mark_says_how_it_went_in_colour_as_well() -> None:
    assert style_of(title(ended(), "naive", waits=False), "✓") == "fits"
    assert style_of(title(ended(outcome="failed"), "naive", waits=False), "✗") == "trouble"
    assert style_of(title(RunView(Path("x")), "naive", waits=True), " waits") == "quiet"


def test_a_title_drives_no_terminal() -> None:
    hostile = {**FACTS, "spec": {"strategy": "\x1b[2J"}}
    for view in (
        RunView(Path("x"), facts=hostile, phase="\x1b[2J"),
        loading(facts={**hostile, "plan": FACTS["plan"]}),
        loading(facts=hostile, result=result(outcome="\x1b[2J")),
    ):
        assert title(view, "\x1b[2J", waits=True).plain.isprintable()


def test_runs_of_one_strategy_are_told_apart_by_what_they_loaded_when_and_from_where() -> None:
    facts = {**FACTS, "checkpoint": {"path": "/ck/llama-7b/"}, "started": {"wall": "2026-11-24T12:00:00"}}
    assert provenance(RunView(Path("x"))).plain == ""
    assert provenance(loading(facts=facts)).plain == "llama-7b · 11-24 12:00"
    assert provenance(loading(facts=facts, result=result(cache={"state": "cold"}))).plain.endswith(" · cold")
    hostile = {**FACTS, "checkpoint": {"path": "\x1b[2J"}, "started": {"wall": "\x1b[2J"}}
    assert provenance(loading(facts=hostile)).plain.isprintable()


def test_where_the_system_tells_no_pools_none_is_shown() -> None:
    view = loading(baseline=Resident(300 * MIB), held=Held(undivided_bytes=GIB), peak_bytes=2 * GIB)
    line = headline(view, 100)[-1].plain
    assert line == "▒ in memory 1.00 GiB, of no known pool · peak 2.00 GiB of 5.00 GiB predicted"
