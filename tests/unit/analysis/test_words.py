"""What a run came to, as it is read: exact sentences."""

from __future__ import annotations

from typing import Any

import pytest

from meminspect.analysis.words import (
    OUTCOME_WORDS,
    PHASE_WORDS,
    advice,
    bill,
    comparison,
    completed,
    excess,
    names,
    sentence,
    times,
)
from meminspect.capture.records import PHASES
from meminspect.theory.ledger import Item
from meminspect.units import use_decimal

GIB = 1 << 30
Run = dict[str, Any]


def line(item: str, nbytes: int, pool: str | None = "heap") -> dict[str, Any]:
    return {"item": item, "pool": pool, "bytes": nbytes}


def a_run(**changes: Any) -> Run:
    """A naive load of 2 GiB that peaked at 7."""
    run: Run = {
        "strategy": "naive",
        "outcome": "completed",
        "repeat": {"index": 1, "of": 1},
        "message": "",
        "peak": {"rss_bytes": 7 * GIB, "heap_bytes": 6 * GIB, "file_bytes": GIB, "pinned_bytes": 0},
        "peak_at": {"t_s": 1.0, "phase": "copy", "tensor": "layers.0.wq"},
        "theory": {"floor_bytes": 2 * GIB, "peak_rss_bytes": 7 * GIB},
        "bill": [
            line(Item.FLOOR, 2 * GIB),
            line(Item.UPCAST, 2 * GIB),
            line(Item.DUPLICATE, 3 * GIB),
            line(Item.UNEXPLAINED, 0, None),
        ],
        "tensors": {"verified": 1291, "expected": 1291, "mismatched": 0},
        "overhead": {"events_lost": 0},
        "cache": {"state": "warm"},
        "returned_s": 1.5,
        "resident_s": 2.25,
    }
    return {**run, **changes}


def a_dead_run(outcome: str = "oom_killed", **changes: Any) -> Run:
    """What is known of a run that ended before its baseline."""
    unknown: Run = {
        "outcome": outcome,
        "peak": dict.fromkeys(("rss_bytes", "heap_bytes", "file_bytes", "pinned_bytes")),
        "peak_at": dict.fromkeys(("t_s", "phase", "tensor")),
        "theory": None,
        "bill": None,
        "tensors": dict.fromkeys(("verified", "expected", "mismatched")),
        "overhead": {"events_lost": None},
        "cache": {"state": None},
        "returned_s": None,
        "resident_s": None,
    }
    return a_run(**{**unknown, **changes})


# --- the answer


def test_given_a_completed_run_then_its_peak_is_said_with_its_place() -> None:
    assert sentence(a_run()) == ("naive peaked at 7.00 GiB, 3.50 × the model, in 'copy' at layers.0.wq")
    use_decimal(True)
    assert sentence(a_run()).startswith("naive peaked at 7.52 GB, 3.50 × the model, in 'copy'")


def test_on_a_device_its_memory_is_the_answer_and_the_host_s_is_said_behind_it() -> None:
    peak = {"rss_bytes": GIB, "heap_bytes": GIB, "vram_allocated_bytes": 5 * GIB}
    assert sentence(a_run(peak=peak)) == (
        "naive peaked at 5.00 GiB of the device, 2.50 × the model; at 1.00 GiB of the host, in 'copy' at layers.0.wq"
    )


def test_given_a_peak_between_tensors_then_only_its_phase_is_said() -> None:
    run = a_run(peak_at={"t_s": 1.0, "phase": "finalise", "tensor": None})
    assert sentence(run).endswith("× the model, in 'finalise'")


def test_given_a_load_that_hardly_rose_above_its_baseline_then_no_place_is_made_up() -> None:
    run = a_run(peak_at={"t_s": 0.0, "phase": None, "tensor": None})
    assert sentence(run) == "naive peaked at 7.00 GiB, 3.50 × the model"


def test_given_a_model_without_bytes_then_there_is_nothing_to_be_a_multiple_of() -> None:
    run = a_run(theory={"floor_bytes": 0}, peak={"rss_bytes": 0}, peak_at=dict.fromkeys(("t_s", "phase", "tensor")))
    assert sentence(run) == "naive peaked at 0 B"


def test_given_troubles_of_a_completed_run_then_all_are_said_in_their_order() -> None:
    run = a_run(overhead={"events_lost": 1200}, tensors={"mismatched": 3}, message="w.pth could not be dropped")
    assert sentence(run) == (
        "naive peaked at 7.00 GiB, 3.50 × the model, in 'copy' at layers.0.wq"
        "; 1,200 events found no room, so its place and its bill are incomplete"
        "; 3 tensors differ from the checkpoint"
        "; w.pth could not be dropped"
    )


def test_given_tensors_that_a_library_has_renamed_or_merged_then_it_is_said_that_nobody_verified_them() -> None:
    assert sentence(a_run(tensors={"mismatched": 0, "unexpected": 26})).endswith(
        "; 26 tensors are in the model under other names or merged: not verified, and in no theory"
    )


@pytest.mark.parametrize("lost", [None, 0])
def test_given_no_word_of_lost_events_then_nothing_is_said_of_them(lost: int | None) -> None:
    assert "events" not in sentence(a_run(overhead={"events_lost": lost}))


@pytest.mark.parametrize("outcome", ["oom_killed", "out_of_memory", "failed", "refused", "cancelled", "timed_out"])
def test_given_a_run_that_did_not_come_to_its_end_then_the_reason_is_the_answer(outcome: str) -> None:
    assert sentence(a_dead_run(outcome, message="why it ended")) == "naive: why it ended"
    assert sentence(a_dead_run(outcome, message="")) == f"naive: {OUTCOME_WORDS[outcome]}"


def test_given_an_outcome_of_a_version_to_come_then_its_own_word_has_to_do() -> None:
    assert sentence(a_dead_run("abducted", message="")) == "naive: abducted"


def test_only_a_completed_run_came_to_its_end() -> None:
    assert [outcome for outcome in OUTCOME_WORDS if completed(a_run(outcome=outcome))] == ["completed"]


def test_every_phase_and_the_time_before_the_first_have_words() -> None:
    assert PHASE_WORDS.keys() == {"", *PHASES}


# --- what the peak was made of


def test_given_a_bill_then_it_is_a_sum_without_what_is_under_a_hundredth() -> None:
    lines = [line(Item.FLOOR, 2 * GIB, "file"), line(Item.SHARD, GIB)]
    whole = {"rss_bytes": 3 * GIB}
    small, large = line(Item.UNEXPLAINED, -GIB // 50, None), line(Item.UNEXPLAINED, -GIB // 2, None)
    assert bill(a_run(peak=whole, bill=[*lines, small])) == "2.00 GiB floor (file) + 1.00 GiB shard"
    assert bill(a_run(peak=whole, bill=[*lines, large])) == (
        "2.00 GiB floor (file) + 1.00 GiB shard − 512.00 MiB unexplained"
    )
    assert bill(a_run(peak=whole, bill=[large])) == "− 512.00 MiB unexplained"


def test_what_is_not_the_model_is_said_largest_first_and_each_item_once() -> None:
    assert excess(a_run()) == ("Not the model: 71 % of the peak, 5.00 GiB: duplicate state dict, dtype upcast.")
    pools = [line(Item.SHARD, GIB), line(Item.SHARD, 2 * GIB, "file"), line(Item.FLOOR, 4 * GIB)]
    use_decimal(True)
    assert excess(a_run(bill=pools)) == "Not the model: 43 % of the peak, 3.22 GB: shard."


def test_given_many_items_then_the_least_are_counted() -> None:
    items = (Item.UPCAST, Item.DUPLICATE, Item.SHARD, Item.STAGING, Item.ALLOCATOR)
    lines = [line(item, (5 - rank) * 100) for rank, item in enumerate(items)]
    assert excess(a_run(peak={"rss_bytes": 1500}, bill=lines)) == (
        "Not the model: 100 % of the peak, 1.46 KiB: dtype upcast, duplicate state dict, shard and 2 more."
    )


@pytest.mark.parametrize(
    ("bill_lines", "peak"),
    [
        ([line(Item.FLOOR, 100), line(Item.UNEXPLAINED, 900, None)], 1000),  # what nobody knows is no excess
        ([line(Item.SHARD, 9)], 1000),  # under a hundredth
        ([], 1000),
        ([line(Item.SHARD, 0)], 0),
        ([line(Item.SHARD, 900)], None),
        (None, None),
    ],
)
def test_given_next_to_nothing_beside_the_model_then_nothing_is_said(
    bill_lines: list[dict[str, Any]] | None, peak: int | None
) -> None:
    assert excess(a_run(bill=bill_lines, peak={"rss_bytes": peak})) == ""


def test_a_hundredth_is_worth_a_sentence() -> None:
    run = a_run(bill=[line(Item.SHARD, 10)], peak={"rss_bytes": 1000})
    assert excess(run) == "Not the model: 1 % of the peak, 10 B: shard."


# --- what would do better


def better(heap: int | None = 0, pinned: int | None = 0, file: int | None = 0) -> dict[str, Any]:
    return {"strategy": "mmap-assign", "peak": {"heap_bytes": heap, "pinned_bytes": pinned, "file_bytes": file}}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (better(file=2 * GIB), "mmap-assign: no heap, 2.00 GiB of reclaimable file pages"),
        (better(heap=GIB), "mmap-assign: 1.00 GiB of heap"),
        (
            better(heap=GIB, pinned=GIB, file=GIB),
            "mmap-assign: 1.00 GiB of heap and 1.00 GiB page-locked, 1.00 GiB of reclaimable file pages",
        ),
        (better(None, None, None), "mmap-assign: no heap"),
    ],
)
def test_what_would_do_better_is_said_with_its_price(told: dict[str, Any], words: str) -> None:
    assert advice(a_run(better=told)) == words


def test_given_nothing_better_or_a_capture_that_does_not_tell_then_there_is_no_advice() -> None:
    assert advice(a_run(better=None)) == ""
    assert advice(a_run()) == "", "written before there was advice"


# --- times


def test_times_are_said_with_the_weightiest_first() -> None:
    assert times(a_run()) == [
        "returned after 1.50 s",
        "resident after 2.25 s",
        "warm page cache",
        "1,291 of 1,291 tensors verified",
    ]


def test_what_is_not_known_is_left_out() -> None:
    assert times(a_dead_run()) == []
    assert times(a_dead_run(returned_s=0.0, cache={"state": "cold"})) == ["returned after 0 µs", "cold page cache"]


# --- several runs


def measured(strategy: str, heap: int, rss: int, resident_s: float | None, outcome: str = "completed") -> Run:
    return a_run(strategy=strategy, outcome=outcome, resident_s=resident_s, peak={"heap_bytes": heap, "rss_bytes": rss})


def test_given_one_that_is_both_then_it_is_said_once() -> None:
    runs = [measured("naive", 4 * GIB, 5 * GIB, 3.0), measured("mmap-assign", GIB, 5 * GIB, 1.0)]
    assert comparison(runs) == ("mmap-assign took least heap, 1.00 GiB, and was resident soonest, after 1.00 s")


def test_on_a_device_its_memory_is_what_is_compared() -> None:
    runs = [measured("lazy", GIB, GIB, 2.0), measured("stream", 2 * GIB, 2 * GIB, 1.0)]
    for run, vram_bytes in zip(runs, (3 * GIB, 2 * GIB), strict=True):
        run["peak"]["vram_allocated_bytes"] = vram_bytes
    assert comparison(runs) == "stream took least device memory, 2.00 GiB, and was resident soonest, after 1.00 s"


def test_given_two_that_share_it_then_both_are_named() -> None:
    runs = [measured("sharded", 4 * GIB, 5 * GIB, 1.0), measured("mmap-assign", GIB, 5 * GIB, 2.0)]
    assert comparison(runs) == ("mmap-assign took least heap, 1.00 GiB; sharded was resident soonest, after 1.00 s")


def test_given_times_that_single_runs_cannot_tell_apart_then_it_says_so() -> None:
    a, b = measured("a", GIB, GIB, 1.0), measured("b", 2 * GIB, GIB, 1.25)
    assert comparison([a, b]) == (
        "a took least heap, 1.00 GiB, and was resident soonest, after 1.00 s; "
        "b took 25 % longer, which single runs cannot tell from chance"
    )
    c, slow = measured("c", 2 * GIB, GIB, 1.1), measured("d", 2 * GIB, GIB, 1.3)
    assert comparison([a, b, c, slow]).endswith(
        "; b and c took at most 25 % longer, which single runs cannot tell from chance"
    )
    assert "chance" not in comparison([a, slow, measured("e", GIB, GIB, None)])


def test_given_the_same_heap_then_the_lower_total_took_less() -> None:
    runs = [measured("a", GIB, 3 * GIB, 2.0), measured("b", GIB, 2 * GIB, 1.0)]
    assert comparison(runs).startswith("b took least heap")


def test_given_one_that_took_as_little_as_can_be_told_apart_then_it_is_named_too() -> None:
    runs = [measured("a", GIB + 1, GIB, 3.0), measured("b", GIB, GIB, 1.0), measured("c", 2 * GIB, GIB, 2.0)]
    assert comparison(runs) == ("b took least heap, 1.00 GiB, as did a, and was resident soonest, after 1.00 s")


def test_given_a_limit_then_it_is_said_and_whether_it_held() -> None:
    limit = {"bytes": 8 * GIB, "confined": True}
    assert sentence(a_run(limit=limit)).startswith(
        "naive peaked at 7.00 GiB under a limit of 8.00 GiB, 3.50 × the model, in 'copy'"
    )
    loose = sentence(a_run(limit={**limit, "confined": False}))
    assert "under a limit of 8.00 GiB, which did not hold: others had read the checkpoint before, 3.50 ×" in loose
    assert "did not hold" not in sentence(a_run(limit={**limit, "confined": None}))


def test_given_no_time_of_residence_then_nobody_was_soonest() -> None:
    runs = [measured("a", GIB, GIB, None), measured("b", 2 * GIB, GIB, None)]
    assert comparison(runs) == "a took least heap, 1.00 GiB"
    assert "b was resident soonest" in comparison([runs[0], {**runs[1], "resident_s": 9.0}])


def test_given_one_that_loaded_something_else_then_it_wins_nothing() -> None:
    wrong = measured("a", 1, 1, 0.1)
    wrong["tensors"] = {**wrong["tensors"], "mismatched": 1}
    assert comparison([wrong]) == ""
    assert comparison([wrong, measured("b", GIB, GIB, 9.0)]).startswith("b took least heap")


def test_given_runs_of_one_strategy_then_they_are_told_apart() -> None:
    runs = [measured("a", 2 * GIB, GIB, 1.0), measured("b", 3 * GIB, GIB, 2.0), measured("a", GIB, GIB, 3.0)]
    assert names(runs) == ["a #1", "b", "a #2"]
    assert comparison(runs).startswith("a #2 took least heap, 1.00 GiB; a #1 was resident soonest")
    assert names([{**run, "repeat": {"index": 2, "of": 3}} for run in runs[:2]]) == ["a 2/3", "b 2/3"]


def test_given_none_that_came_to_its_end_then_nothing_is_compared() -> None:
    dead = measured("a", 1, 1, 0.1, outcome="oom_killed")
    assert comparison([]) == ""
    assert comparison([dead, a_dead_run()]) == ""
    assert comparison([dead, measured("b", GIB, GIB, 9.0)]).startswith("b took least heap")
