from __future__ import annotations

from typing import Any

from meminspect.analysis.steady import retained, steady_document
from meminspect.capture.records import Resident

MIB = 1 << 20
BASELINE = Resident(182 * MIB, 100 * MIB, 50 * MIB, 32 * MIB)


def report(*, heap: int, trimmed: int | None, live: int = 800 * MIB, fixed: bool = False) -> dict[str, Any]:
    steady = {"heap_bytes": 100 * MIB + heap, "file_bytes": 51 * MIB, "pinned_bytes": 32 * MIB}
    return {
        "live_bytes": live,
        "steady": steady,
        "trimmed": None if trimmed is None else {**steady, "heap_bytes": 100 * MIB + trimmed},
        "fixed_mmap_threshold": fixed,
    }


def test_the_steady_state_is_told_in_three_above_the_baseline() -> None:
    found = steady_document(report(heap=910 * MIB, trimmed=801 * MIB), BASELINE)
    assert (found["live_bytes"], found["retained_heap_bytes"], found["trimmed_heap_bytes"]) == (
        800 * MIB, 109 * MIB, 801 * MIB,
    )  # fmt: skip
    assert (found["heap_bytes"], found["file_bytes"], found["pinned_bytes"]) == (910 * MIB, MIB, 0)
    assert found["rss_bytes"] == 911 * MIB


def test_the_reason_is_given_where_much_is_retained_and_is_another_where_the_threshold_is_fixed() -> None:
    much = steady_document(report(heap=910 * MIB, trimmed=801 * MIB), BASELINE)
    fixed = steady_document(report(heap=910 * MIB, trimmed=801 * MIB, fixed=True), BASELINE)
    assert "MALLOC_MMAP_THRESHOLD_" in much["retained_reason"]
    assert "MALLOC_MMAP_THRESHOLD_" not in fixed["retained_reason"]


def test_little_needs_no_reason_in_bytes_or_beside_the_model() -> None:
    assert steady_document(report(heap=810 * MIB, trimmed=801 * MIB), BASELINE)["retained_reason"] is None
    large = report(heap=90_100 * MIB, trimmed=90_000 * MIB, live=90_000 * MIB)
    assert steady_document(large, BASELINE)["retained_reason"] is None


def test_without_a_trim_nobody_knows_and_the_reason_says_so() -> None:
    found = steady_document(report(heap=910 * MIB, trimmed=None), BASELINE)
    assert (found["retained_heap_bytes"], found["trimmed_heap_bytes"]) == (None, None)
    assert "malloc_trim" in found["retained_reason"]
    assert retained({"steady": found}) == ""


def test_where_the_system_tells_no_pools_only_the_total_is_known_and_only_if_somebody_saw_it() -> None:
    untold = {**report(heap=1, trimmed=None), "steady": dict.fromkeys(("heap_bytes", "file_bytes", "pinned_bytes"))}
    found = steady_document(untold, Resident(100), Resident(700))
    assert found["rss_bytes"] == 600
    assert found["heap_bytes"] is found["file_bytes"] is found["pinned_bytes"] is None
    assert steady_document(untold, Resident(100))["rss_bytes"] is None


def test_without_a_report_everything_is_unknown() -> None:
    assert set(steady_document(None, BASELINE).values()) == {None}
    assert steady_document(None, BASELINE).keys() == steady_document(report(heap=1, trimmed=1), BASELINE).keys()
    assert set(steady_document(report(heap=1, trimmed=1), None).values()) == {None}


def test_what_is_retained_is_a_sentence_with_its_reason() -> None:
    found = steady_document(report(heap=910 * MIB, trimmed=801 * MIB), BASELINE)
    sentence = retained({"steady": found})
    assert sentence.startswith("Afterwards 800.00 MiB are live, and the allocator keeps 109.00 MiB more: glibc ")
    assert retained({"steady": {**found, "retained_reason": None}}) == ""
