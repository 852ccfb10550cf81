from __future__ import annotations

from typing import Any

import pytest

from meminspect.analysis.repeats import Spread, comparison, difference, groups, repeated, sentence, summary
from meminspect.units import format_bytes

GIB = 1 << 30
Run = dict[str, Any]


def a_run(strategy: str, index: int, of: int, resident_s: float | None = 1.0, **changes: Any) -> Run:
    heap = changes.pop("heap", 2 * GIB)
    return {
        "strategy": strategy, "outcome": "completed", "message": "", "returned_s": resident_s, "resident_s": resident_s,
        "peak": {"rss_bytes": heap, "heap_bytes": heap, "file_bytes": 0}, "theory": {"floor_bytes": 2 * GIB},
        "tensors": {"mismatched": 0}, "repeat": {"index": index, "of": of}, **changes,
    }  # fmt: skip


DEAD = {
    "outcome": "oom_killed", "message": "killed while reading", "peak": {"rss_bytes": GIB, "heap_bytes": GIB},
    "resident_s": None, "returned_s": None, "tensors": {"mismatched": None},
}  # fmt: skip


def interleaved(**times: list[float]) -> list[Run]:
    """Runs in the order of the command: (strategy=[seconds in each round])."""
    of = max(map(len, times.values()))
    return [
        a_run(strategy.replace("_", "-"), index + 1, of, seconds[index])
        for index in range(of)
        for strategy, seconds in times.items()
    ]


# --- spreads


def test_a_spread_is_a_median_with_its_range_in_one_unit() -> None:
    assert Spread.of([1.4, 1.9, 1.5]) == (1.5, 1.4, 1.9)
    assert Spread(1.5, 1.4, 1.9).seconds() == "1.50 s (1.40–1.90)"
    assert Spread(0.9985, 0.001, 1.9).seconds() == "1.00 s (0.00–1.90)"
    assert Spread(0.0123, 0.0004, 0.02).seconds() == "12.3 ms (0.4–20.0)"
    assert Spread(1.5, 1.5, 1.501).seconds() == "1.50 s"
    assert Spread(GIB, GIB >> 10, 3 * GIB).text(format_bytes) == "1.00 GiB (1.00 MiB–3.00 GiB)"
    assert Spread(2 * GIB, GIB, 3 * GIB).text(format_bytes) == "2.00 GiB (1.00–3.00)"
    assert Spread.of([]) is None


# --- the document


def test_the_summary_is_of_the_runs_that_completed() -> None:
    runs = [a_run("a", 1, 3, 1.0), a_run("b", 1, 3, **DEAD), a_run("a", 2, 3, 3.0), a_run("a", 3, 3, **DEAD)]
    first, second = summary(runs)
    assert first == {
        "strategy": "a",
        "runs": 3,
        "completed": 2,
        "peak_rss_bytes": {"median": 2 * GIB, "min": 2 * GIB, "max": 2 * GIB},
        "peak_heap_bytes": {"median": 2 * GIB, "min": 2 * GIB, "max": 2 * GIB},
        "returned_s": {"median": 2.0, "min": 1.0, "max": 3.0},
        "resident_s": {"median": 2.0, "min": 1.0, "max": 3.0},
    }
    nothing = {"median": None, "min": None, "max": None}
    assert (second["runs"], second["completed"]) == (1, 0)
    assert second["peak_rss_bytes"] == second["resident_s"] == nothing


def test_bytes_stay_whole_and_what_loaded_something_else_is_no_measure() -> None:
    runs = [a_run("a", 1, 3, heap=1), a_run("a", 2, 3, heap=4), a_run("a", 3, 3, heap=99, tensors={"mismatched": 1})]
    (only,) = summary(runs)
    assert only["peak_rss_bytes"] == {"median": 2, "min": 1, "max": 4}
    assert isinstance(only["peak_rss_bytes"]["median"], int)


# --- a pair of strategies


def of_pair(first: list[float], second: list[float]) -> Any:
    return difference(*groups(interleaved(a=first, b=second)))


def test_given_five_rounds_that_agree_then_a_small_difference_is_one() -> None:
    # given a machine whose mood changes tenfold from round to round, and meets both alike
    found = of_pair([1.0, 10.0, 1.0, 5.0, 1.0], [1.05, 10.5, 1.05, 5.25, 1.05])
    assert found.certain
    assert found.text() == "5 % longer in 5 of 5 rounds"


def test_given_a_large_difference_then_it_is_a_multiple() -> None:
    assert of_pair([1.0] * 5, [2.1] * 5).text() == "2.1 × as long in 5 of 5 rounds"


def test_given_rounds_that_disagree_then_it_is_noise_however_large() -> None:
    found = of_pair([1.0] * 5, [2.0, 2.0, 2.0, 0.5, 2.0])
    assert not found.certain
    assert found.text() == "a difference of 100 %, which is within the noise (±300 %)"


@pytest.mark.parametrize(("agreeing", "rounds", "certain"), [(4, 5, False), (8, 10, False), (9, 10, True)])
def test_given_many_rounds_then_some_may_disagree(agreeing: int, rounds: int, certain: bool) -> None:
    second = [1.5] * agreeing + [0.9] * (rounds - agreeing)
    assert of_pair([1.0] * rounds, second).certain is certain


def test_given_few_rounds_then_what_identical_loads_differ_by_is_noise() -> None:
    assert of_pair([1.0, 1.0], [1.2, 1.2]).text() == "a difference of 20 %, which is within the noise (±25 %)"
    assert of_pair([1.0, 1.0], [1.4, 1.4]).certain
    assert not of_pair([1.0, 1.0, 1.0], [1.6, 1.6, 0.9]).certain


def test_given_no_round_that_both_completed_then_nothing_is_compared() -> None:
    runs = [a_run("a", 1, 2), a_run("b", 1, 2, **DEAD), a_run("a", 2, 2, **DEAD), a_run("b", 2, 2)]
    assert difference(*groups(runs)) is None
    assert comparison(runs)[-1] == "b: 1.00 s, no round in common"


def test_a_difference_that_is_called_noise_is_never_larger_than_the_noise() -> None:
    for second in ([1.1, 1.1, 1.1, 1.1, 0.99], [1.0] * 5, [0.5, 1.5, 1.0, 3.0, 0.9]):
        found = of_pair([1.0] * 5, second)
        assert not found.certain
        assert abs(found.ratio - 1) <= found.noise + 1e-9


# --- in words


def test_the_soonest_is_named_with_how_the_others_compare() -> None:
    runs = interleaved(
        mmap_assign=[1.5, 1.4, 1.9, 1.5, 1.6], naive=[3.0, 3.2, 3.9, 3.2, 3.3], sharded=[3.3, 3.1, 3.5, 3.5, 3.0]
    )
    assert comparison(runs) == [
        "mmap-assign took least heap, 2.00 GiB, as did naive and sharded",
        "mmap-assign was resident soonest: 1.50 s (1.40–1.90)",
        "naive: 3.20 s (3.00–3.90), 2.1 × as long in 5 of 5 rounds",
        "sharded: 3.30 s (3.00–3.50), 2.2 × as long in 5 of 5 rounds",
        "naive and sharded: a difference of 3 %, which is within the noise (±14 %)",
    ]


def test_given_a_rival_within_the_noise_then_nobody_is_called_soonest_without_saying_by_what() -> None:
    lines = comparison(interleaved(a=[1.0, 1.2, 1.0, 1.1, 1.0], b=[1.1, 1.0, 1.1, 1.2, 1.05]))
    assert lines[1].startswith("a was resident soonest by its median: 1.00 s")
    assert "within the noise" in lines[2]


def test_given_one_strategy_or_none_that_completed_then_there_is_nothing_to_compare() -> None:
    assert comparison(interleaved(a=[1.0, 2.0])) == []
    assert comparison([a_run("a", 1, 1, **DEAD), a_run("b", 1, 1)]) == []


def test_a_strategy_is_one_sentence_with_its_outcomes_counted() -> None:
    runs = [a_run("a", 1, 3, 1.0), a_run("a", 2, 3, 3.0), a_run("a", 3, 3, **DEAD)]
    (group,) = groups(runs)
    assert sentence(group) == (
        "a: 2 × completed, 1 × OOM-killed; peak 2.00 GiB, 1.00 × the model; returned after 2.00 s (1.00–3.00); "
        "resident after 2.00 s (1.00–3.00); killed while reading"
    )
    assert group.typical is runs[0]


def test_given_runs_that_all_died_then_that_and_why_is_all_there_is() -> None:
    again = {**DEAD, "message": "killed while reading, a little later"}
    (group,) = groups([a_run("a", 1, 2, **DEAD), a_run("a", 2, 2, **again)])
    assert sentence(group) == "a: 2 × OOM-killed; killed while reading"


def test_only_the_rounds_of_one_command_are_put_together() -> None:
    assert repeated(interleaved(a=[1.0, 2.0]))
    assert not repeated(interleaved(a=[1.0], b=[2.0])), "one of each"
    assert not repeated([a_run("a", 1, 1), a_run("a", 1, 1)]), "two commands"
    assert not repeated([*interleaved(a=[1.0, 2.0]), *interleaved(a=[1.0, 2.0])]), "a command given twice"
