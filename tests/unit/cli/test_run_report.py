"""What `meminspect run` prints of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meminspect.cli import results
from meminspect.cli.run import _turns

if TYPE_CHECKING:
    import pytest

GIB = 1 << 30
BETTER = {"strategy": "mmap-assign", "peak": {"heap_bytes": 0, "file_bytes": 2 * GIB, "pinned_bytes": 0}}


def a_run(strategy: str, **changes: Any) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "outcome": "oom_killed",
        "message": "killed by the kernel's OOM killer",
        "peak": {"rss_bytes": 6 * GIB, "heap_bytes": 6 * GIB, "file_bytes": 0, "pinned_bytes": 0},
        "theory": {"floor_bytes": 2 * GIB, "peak_rss_bytes": 7 * GIB},
        "bill": None,
        "returned_s": None,
        "resident_s": None,
        "repeat": {"index": 1, "of": 1},
        "capture": "/captures/run.meminspect",
        **changes,
    }


def shown(capsys: pytest.CaptureFixture[str], *runs: dict[str, Any]) -> list[str]:
    results.show(runs)
    return capsys.readouterr().out.splitlines()


def test_a_run_s_sentence_is_followed_by_what_would_do_better(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, a_run("naive", better=BETTER))
    assert lines[0] == "naive: killed by the kernel's OOM killer"
    assert lines[1] == "  → mmap-assign: no heap, 2.00 GiB of reclaimable file pages"


def test_what_was_tried_as_well_is_seen_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, a_run("naive", better=BETTER), a_run("mmap-assign", better=None))
    assert not any("→" in line for line in lines)


def test_captures_of_before_there_was_advice_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, a_run("naive"))[0].startswith("naive: killed")


def test_several_rounds_are_a_sentence_a_strategy_and_what_can_be_told_of_their_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def completed(strategy: str, index: int, resident_s: float) -> dict[str, Any]:
        return a_run(
            strategy, outcome="completed", message="", resident_s=resident_s, repeat={"index": index, "of": 2},
            tensors={"mismatched": 0},
        )  # fmt: skip

    times = [("naive", 1, 1.0), ("sharded", 1, 1.1), ("naive", 2, 1.2), ("sharded", 2, 1.2)]
    lines = shown(capsys, *(completed(*one) for one in times))
    text = " ".join(" ".join(lines).split())
    assert "naive: 2 × completed; peak 6.00 GiB, 3.00 × the model; resident after 1.10 s (1.00–1.20)" in text
    assert "sharded: 2 × completed" in text
    table = next(index for index, line in enumerate(lines) if line.startswith("strategy"))
    assert [line.split()[0] for line in lines[table + 1 : table + 3]] == ["naive", "sharded"]
    assert "sharded: 1.15 s (1.10–1.20), a difference of 5 %, which is within the noise (±25 %)" in text
    assert "1/2" not in text, "no run is on its own"


def test_over_the_rounds_every_strategy_takes_every_place() -> None:
    rounds = [_turns(("a", "b", "c"), index) for index in range(1, 5)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert _turns(("alone",), 7) == ["alone"]
