"""The search for the smallest limit, with probes that only say what would have happened."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.engine.fit import Fit, Search, fit

GIB, MIB = 1 << 30, 1 << 20
LEAST = 64 * MIB
THEORY = {"peak": {"heap_bytes": 2 * GIB, "pinned_bytes": 0}}
KEYS = {
    "strategy", "answer", "message", "limit_bytes", "dies_at_bytes", "completes_at_bytes", "theory_bytes", "baseline",
    "usable_bytes", "difference_bytes", "resident_s", "unlimited_resident_s", "slowdown", "cache", "mechanism",
    "confined", "note", "probes", "capture",
}  # fmt: skip


def searched(threshold: int, guess: int, tolerance: int, most: int) -> tuple[Search, int]:
    """A search to its end where everything from the threshold on completes, and the number of probes."""
    search, probes = Search(guess, tolerance, LEAST, most), 0
    for limit in iter(search.next, None):
        assert LEAST <= limit <= max(most, LEAST)
        search.learn(limit, completed=limit >= threshold)
        probes += 1
    return search, probes


@given(
    threshold=st.integers(LEAST + 1, 1 << 38),
    guess=st.integers(0, 1 << 39),
    tolerance=st.integers(1, GIB),
)
def test_the_two_ends_close_in_on_the_threshold_by_few_probes(threshold: int, guess: int, tolerance: int) -> None:
    search, probes = searched(threshold, guess, tolerance, 1 << 40)
    dies, completes = search.dies_at, search.completes_at
    assert completes is not None
    assert completes >= threshold
    if dies is None:  # even the least completes
        assert completes == LEAST >= threshold
    else:
        assert dies < threshold
        assert completes - dies <= tolerance
    assert probes <= 2 * math.log2((1 << 40) / tolerance) + 4


def test_a_good_guess_is_bracketed_by_two_probes() -> None:
    search = Search(1000 * MIB, 16 * MIB, LEAST, GIB * 8)
    first = search.next()
    assert first == 1030 * MIB
    search.learn(first, completed=True)
    assert search.next() == 970 * MIB


def test_what_even_the_most_kills_or_the_least_does_not_has_one_end() -> None:
    never, probes = searched(100 * GIB, 2 * GIB, 16 * MIB, 8 * GIB)
    assert (never.dies_at, never.completes_at) == (8 * GIB, None)
    assert probes < 10
    always, _ = searched(0, 2 * GIB, 16 * MIB, 8 * GIB)
    assert (always.dies_at, always.completes_at) == (None, LEAST)


def a_run(
    limit: int | None, outcome: str = "completed", *, confined: bool | None = True, **changes: Any
) -> dict[str, Any]:
    found = limit and {"bytes": limit, "mechanism": "cgroup v2", "confined": confined, "note": None}
    run = {
        "outcome": outcome, "message": "" if outcome == "completed" else f"it {outcome}", "theory": THEORY,
        "baseline": {"heap_bytes": 200 * MIB}, "resident_s": 2.0 if limit is None else 3.0, "limit": found,
        "cache": {"state": "cold"}, "capture": f"at-{limit}",
    }  # fmt: skip
    return {**run, **changes}


class Machine:
    """Runs that complete from a threshold on; one that is told to do something else does that."""

    def __init__(self, threshold: int, *, free: dict[str, Any] | None = None, **changes: Any) -> None:
        self.limits: list[int | None] = []
        self._threshold, self._free, self._changes = threshold, free, changes

    def probe(self, limit: int | None) -> dict[str, Any]:
        self.limits.append(limit)
        if limit is None:
            return self._free or a_run(None)
        return a_run(limit, "completed" if limit >= self._threshold else "oom_killed", **self._changes)


def fitted(machine: Machine, usable: int = 16 * GIB) -> dict[str, Any]:
    found = Fit("naive", 16 * MIB, usable)
    fit(found, machine.probe, LEAST)
    return found.document()


def test_a_found_limit_stands_beside_theory_and_the_time_without_one() -> None:
    document = fitted(Machine(2 * GIB + 230 * MIB))
    assert set(document) == KEYS
    assert document["answer"] == "found"
    assert document["dies_at_bytes"] < 2 * GIB + 230 * MIB <= document["completes_at_bytes"] == document["limit_bytes"]
    assert document["limit_bytes"] - document["dies_at_bytes"] <= 16 * MIB
    assert document["theory_bytes"] == 2 * GIB + 200 * MIB
    assert document["baseline"] == {"bytes": 200 * MIB, "source": "measured"}
    assert document["difference_bytes"] == document["limit_bytes"] - document["theory_bytes"]
    assert (document["slowdown"], document["capture"]) == (1.5, f"at-{document['limit_bytes']}")
    assert {probe["outcome"] for probe in document["probes"]} == {"completed", "oom_killed"}


def test_times_from_different_page_caches_are_not_compared() -> None:
    document = fitted(Machine(GIB, cache={"state": "warm"}))
    assert document["cache"] == {"at_limit": "warm", "unlimited": "cold"}
    assert document["slowdown"] is None


def test_given_a_run_that_is_refused_as_too_large_then_nothing_else_is_tried() -> None:
    machine = Machine(GIB, free=a_run(None, "refused", baseline={"heap_bytes": None}))
    document = fitted(machine, usable=2 * GIB)
    assert (document["answer"], machine.limits) == ("does_not_suffice", [None])
    assert document["baseline"] == {"bytes": PROCESS_BYTES, "source": "assumed"}
    assert document["limit_bytes"] is document["slowdown"] is document["capture"] is None


def test_given_all_that_the_machine_has_and_it_still_dies_then_that_is_the_answer() -> None:
    document = fitted(Machine(100 * GIB), usable=4 * GIB)
    assert (document["answer"], document["dies_at_bytes"], document["completes_at_bytes"]) == (
        "does_not_suffice", 4 * GIB, None,
    )  # fmt: skip


@pytest.mark.parametrize("outcome", ["failed", "refused", "timed_out"])
def test_given_a_probe_that_ends_otherwise_then_the_search_ends_with_its_reason(outcome: str) -> None:
    machine = Machine(GIB)
    found = Fit("naive", 16 * MIB, 16 * GIB)
    fit(found, lambda limit: a_run(None) if limit is None else a_run(limit, outcome), LEAST)
    assert (found.answer, found.message, len(found.probes)) == ("failed", f"it {outcome}", 1)
    assert fitted(Machine(GIB, free=a_run(None, "failed")))["answer"] == "failed"
    assert not machine.limits


def test_given_an_interrupt_then_what_is_known_so_far_is_kept() -> None:
    machine, found = Machine(2 * GIB + 230 * MIB), Fit("naive", MIB, 16 * GIB)

    def probe(limit: int | None) -> dict[str, Any]:
        if len(machine.limits) == 4:
            raise KeyboardInterrupt
        return machine.probe(limit)

    with pytest.raises(KeyboardInterrupt):
        fit(found, probe, LEAST)
    document = found.document()
    assert (document["answer"], document["limit_bytes"]) == ("interrupted", None)
    assert document["dies_at_bytes"] < 2 * GIB + 230 * MIB <= document["completes_at_bytes"]
    assert len(document["probes"]) == 3


def test_given_a_limit_that_does_not_hold_then_it_is_tried_again_and_said() -> None:
    machine = Machine(GIB, confined=False)
    document = fitted(machine)
    assert machine.limits[1:4] == [machine.limits[1]] * 3
    assert (document["confined"], "did not hold" in document["message"]) == (False, True)
