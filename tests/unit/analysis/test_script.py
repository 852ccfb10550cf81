"""What is told of code of the user's own and of no strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_events import MIB, baseline, begin, named, phase, reading, release, resident

from meminspect.analysis.run import run_document
from meminspect.analysis.script_words import script_lines
from meminspect.analysis.words import sentence
from meminspect.capture.records import Event, Operation, Pool
from meminspect.capture.store import CaptureReader, CaptureWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., dict[str, Any]]

SCRIPT = {"path": "load.py", "entry": "", "arguments": ["--fast"], "folder": "/work"}
MODEL = 100 * MIB
HELD = {"model_bytes": MODEL, "other_bytes": 7, "dtypes": {"float16": MODEL}}
UNTOUCHED = {"resets": False, "untouched": True, "high_water_bytes": 1510 + 5000}


@pytest.fixture
def document(tmp_path: Path) -> Make:
    """Writes a script's capture and returns its RUN: (facts, events)."""

    def make(events: list[Event], **facts: object) -> dict[str, Any]:
        path = tmp_path / "run.meminspect"
        path.unlink(missing_ok=True)
        writer = CaptureWriter(path, 0)
        known: dict[str, object] = {
            "spec": {"strategy": "script", "script": SCRIPT, "repeat_index": 1, "repeat_of": 1},
            "outcome": {"outcome": "completed", "message": "", "died_at": None, "exit_status": 0},
            "baseline": UNTOUCHED,
            "mark": {"baseline": "start"},
            **facts,
        }
        for name, value in known.items():
            writer.fact(name, value)
        writer.append([], events, [])
        writer.close()
        with CaptureReader(path) as capture:
            return run_document(capture)

    return make


def a_load(*, peak: int = MODEL, file: int = 0, pool: Pool = Pool.HEAP, mark: int | None = None) -> list[Event]:
    tensor = begin(15, Operation.MATERIALISE, pool, 1, "wq", MODEL, file=file)
    return [
        baseline(10), phase(11, "read", reading()), tensor._replace(detail="float16 [8]"),
        resident(20, reading(heap=peak, mark=mark)),
    ]  # fmt: skip


def test_it_has_no_theory_and_its_floor_is_what_its_models_held(document: Make) -> None:
    run = document(a_load(), kept=HELD, opened={"files": ["/work/net.pth"]})

    assert run["theory"] is None
    assert run["script"] == {
        "kind": "script", "command": ["load.py", "--fast"], "entry": None, "folder": "/work", "exit_status": 0,
        "baseline": "start", "floor_bytes": MODEL, "floor_of": "model", "kept": HELD, "files": ["/work/net.pth"],
        "patterns": [], "notes": [],
    }  # fmt: skip
    assert sentence(run) == "script peaked at 100.00 MiB, 1.00 × its model, in 'read' at wq"
    assert script_lines(run) == [
        "no theory: no header tells what code does; baseline: its start; floor 100.00 MiB: what its models held in the "
        "end"
    ]


@pytest.mark.parametrize(
    ("facts", "floor"),
    [
        ({"floor": {"floor_bytes": 5}, "kept": HELD}, (5, "checkpoint")),
        ({"kept": {**HELD, "model_bytes": 0}}, (7, "tensors")),
        ({"kept": {**HELD, "model_bytes": 0, "other_bytes": 0}}, (MODEL, "gone")),
        ({}, (MODEL, "gone")),
    ],
)
def test_the_floor_is_the_best_that_is_known(document: Make, facts: dict[str, object], floor: tuple[int, str]) -> None:
    run = document(a_load(), **facts)

    assert (run["script"]["floor_bytes"], run["script"]["floor_of"]) == floor


def test_a_strategy_has_none_of_it(document: Make) -> None:
    assert document(a_load(), spec={"strategy": "naive"})["script"] is None


def test_the_peak_is_exact_where_the_mark_has_risen_and_else_the_highest_reading(document: Make) -> None:
    risen = document(a_load(mark=MODEL + MIB))
    old = document(a_load(peak=2000, mark=5000))

    assert (risen["peak"]["rss_bytes"], risen["peak_bracket_bytes"]["rss_bytes"]) == (MODEL + MIB, 0)
    assert (old["peak"]["rss_bytes"], old["peak_bracket_bytes"]["rss_bytes"]) == (2000, None)
    assert old["peak_bracket_reason"].startswith("the high-water mark is the script's own and never reset")


def test_the_last_baseline_counts(document: Make) -> None:
    at = reading(heap=30 * MIB)
    events = [baseline(5), named(6, "import begins", reading()), *a_load()]
    events[2] = named(10, "baseline", at)

    run = document(events)

    assert run["peak"]["rss_bytes"] == MODEL - 30 * MIB


def test_what_libraries_took_is_a_line_of_the_bill(document: Make) -> None:
    events = a_load(peak=MODEL + 40 * MIB)
    imported = [named(12, "import begins", reading()), named(13, "import ends", reading(heap=40 * MIB))]
    events[2:2] = imported

    run = document(events, kept=HELD)

    bill = {line["item"]: line["bytes"] for line in run["bill"]}
    assert bill == {"floor": MODEL, "imported libraries": 40 * MIB, "unexplained": 0}


def test_mapped_tensors_that_nobody_used_are_told(document: Make) -> None:
    run = document(a_load(peak=1000, pool=Pool.FILE), kept=HELD)

    (note,) = run["script"]["notes"]
    assert note.startswith("100.00 MiB of its tensors are mapped and were not used")


def test_a_tensor_that_was_released_before_the_end_is_not_taken_for_the_model(document: Make) -> None:
    events = a_load()
    gone = begin(12, Operation.MATERIALISE, Pool.HEAP, 7, "other", MIB, file=0)._replace(detail="float16 [8]")
    events[2:2] = [gone, release(13, gone)]

    run = document(events)

    assert (run["script"]["floor_bytes"], run["script"]["floor_of"]) == (MODEL, "gone")
