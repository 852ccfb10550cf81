from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_events import MIB, MS, baseline, begin, end, phase, reading, release, resident, sample

from meminspect.analysis.run import _lateness_ms, run_document
from meminspect.capture.records import Event, Operation, Pool, Sample
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Document = dict[str, Any]

# JSON.md, RUN: every key is there, whatever happened.
POOLS = {"heap_bytes", "file_bytes", "pinned_bytes", "vram_allocated_bytes", "vram_reserved_bytes"}
KEYS: dict[str, set[str] | None] = {
    "strategy": None, "outcome": None, "message": None, "died_at": None, "returned_s": None, "resident_s": None,
    "in_use": None, "ceiling": None, "evidence": None,
    "cache": {"state", "fraction_before", "fraction_after", "reason", "files"},
    "baseline": {"rss_bytes", "heap_bytes", "file_bytes"},
    "peak": POOLS | {"rss_bytes", "vram_used_bytes"},
    "peak_bracket_bytes": POOLS | {"rss_bytes"},
    "peak_at": {"t_s", "phase", "tensor"},
    "steady": POOLS | {"rss_bytes", "vram_used_bytes", "retained_heap_bytes", "trimmed_heap_bytes"},
    "theory": None, "bill": None,
    "tensors": {"expected", "materialised", "verified", "mismatched", "missing", "unexpected"},
    "io": {
        "read_bytes", "major_faults", "minor_faults", "bytes_per_s", "reason", "pressure", "pressure_reason",
        "file_system", "network",
    },
    "forward": None, "forward_reason": None,
    "overhead": {
        "samples", "sampler_cpu_s", "writer_cpu_s", "hooks_s", "accounted_fraction", "max_gap_ms", "late_ms_p99",
        "events", "event_us_median", "cache_watch_cpu_s",
    },
    "limit": None,
    "repeat": {"index", "of"},
    "capture": None,
    "better": None,
    "environment": None,
}  # fmt: skip

SPEC = {"strategy": "naive", "repeat_index": 2, "repeat_of": 3}
COMPLETED = {"outcome": "completed", "message": "", "died_at": None, "exit_status": 0}
LEDGER = [("read", "materialise", "heap", Item.FLOOR, "a", 300 * MIB)]


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., Document]:
    """Writes a capture and returns the document of it: (facts, events, samples) → RUN."""

    def make(
        facts: Mapping[str, object], events: list[Event] | None = None, samples: list[Sample] | None = None
    ) -> Document:
        path = tmp_path / "run.meminspect"
        writer = CaptureWriter(path, 0)
        for name, value in facts.items():
            writer.fact(name, value)
        writer.ledger(LEDGER)
        writer.append(samples or [], events or [], [])
        writer.close()
        with CaptureReader(path) as capture:
            return run_document(capture)

    return make


def completed_events() -> list[Event]:
    tensor = begin(15, Operation.MATERIALISE, Pool.HEAP, 1, "a", 300 * MIB)
    return [
        baseline(10), phase(11, "read", reading()),
        tensor, end(16, tensor, reading(heap=300 * MIB, file=5 * MIB, mark=350 * MIB)),
        resident(20, reading(heap=300 * MIB, file=25 * MIB, mark=325 * MIB)),
        phase(21, "verify", reading(heap=9000 * MIB)), release(30, tensor),
    ]  # fmt: skip


def completed_facts() -> dict[str, object]:
    steady = reading(heap=310 * MIB, file=20 * MIB)._asdict()
    return {
        "spec": SPEC,
        "outcome": COMPLETED,
        "returned": {"t_ns": 17 * MS, "started_ns": 12 * MS},
        "resident": {"t_ns": 20 * MS, "started_ns": 12 * MS},
        "steady": {"live_bytes": 300, "steady": steady, "trimmed": {**steady, "heap_bytes": 1000 + 300 * MIB}},
        "checkpoint": {"tensors": 1},
        "cache": {"fraction_before": 1.0, "fraction_after": 1.0},
        "io": {
            "before": {"read_bytes": 100, "minor_faults": 10, "major_faults": 1},
            "after": {"read_bytes": 500, "minor_faults": 90, "major_faults": 3},
        },
        "theory": {"floor_bytes": 300},
        "tensors": {"expected": 1, "verified": 1, "mismatched": 0, "missing": 0, "unexpected": 0, "names": {}},
        "supervision": {
            "samples": 3,
            "sampler_cpu_s": 0.001,
            "writer_cpu_s": 0.002,
            "cache_watch_cpu_s": 0.005,
            "max_gap_ms": 7.5,
            "supervised_s": 4.0,
        },
        "hooks": {"hooks_s": 0.0005, "events": 4, "event_us_median": 5.0},
    }


def test_a_completed_run_has_every_figure(document: Callable[..., Document]) -> None:
    samples = [
        sample(12, reading(), read_bytes=1000, minor_faults=10, major_faults=1),
        sample(14, reading(heap=100 * MIB)),
        sample(19, reading(heap=300 * MIB, file=20 * MIB), read_bytes=1400, minor_faults=90, major_faults=3),
    ]
    run = document(completed_facts(), completed_events(), samples)
    assert run["strategy"] == "naive"
    assert (run["outcome"], run["message"], run["died_at"]) == ("completed", "", None)
    assert run["returned_s"] == pytest.approx(0.005)
    assert run["resident_s"] == pytest.approx(0.008)
    assert run["cache"] == {
        "state": "warm", "fraction_before": 1.0, "fraction_after": 1.0, "reason": None, "files": [],
    }  # fmt: skip
    assert run["baseline"] == {"rss_bytes": 1510, "heap_bytes": 1000, "file_bytes": 500}
    assert run["peak"]["rss_bytes"] == 350 * MIB
    assert (run["peak"]["heap_bytes"], run["peak"]["file_bytes"], run["peak"]["pinned_bytes"]) == (
        300 * MIB,
        25 * MIB,
        0,
    )
    assert run["peak_bracket_bytes"]["rss_bytes"] == 0, "the kernel's mark, read to the end"
    assert run["peak_at"] == {"t_s": pytest.approx(0.006), "phase": "read", "tensor": "a"}
    assert run["bill"] == [
        {"item": Item.FLOOR, "pool": "heap", "bytes": 300 * MIB},
        {"item": Item.UNEXPLAINED, "pool": None, "bytes": 50 * MIB},
    ]
    steady = run["steady"]
    assert (steady["heap_bytes"], steady["file_bytes"], steady["rss_bytes"]) == (310 * MIB, 20 * MIB, 330 * MIB)
    assert (steady["trimmed_heap_bytes"], steady["retained_heap_bytes"]) == (300 * MIB, 10 * MIB)
    assert run["theory"] == {"floor_bytes": 300}
    assert run["tensors"] == {
        "expected": 1, "materialised": 1, "verified": 1, "mismatched": 0, "missing": 0, "unexpected": 0,
    }  # fmt: skip
    assert {key: run["io"][key] for key in ("read_bytes", "major_faults", "minor_faults", "bytes_per_s")} == {
        "read_bytes": 400, "major_faults": 2, "minor_faults": 80, "bytes_per_s": pytest.approx(400 / 0.008),
    }  # fmt: skip
    assert run["overhead"]["samples"] == 3
    assert run["overhead"]["max_gap_ms"] == 7.5
    assert run["overhead"]["events"] == 4
    assert run["repeat"] == {"index": 2, "of": 3}
    assert run["capture"].endswith("run.meminspect")


def test_without_a_device_its_figures_are_unknown_rather_than_zero(document: Callable[..., Document]) -> None:
    run = document(completed_facts(), completed_events())
    for part in ("peak", "steady", "peak_bracket_bytes"):
        assert run[part]["vram_allocated_bytes"] is None
        assert run[part]["vram_reserved_bytes"] is None
    assert run["peak"]["vram_used_bytes"] is None
    assert run["steady"]["vram_used_bytes"] is None
    assert run["vram_reason"] == "the load uses no device"


@pytest.mark.parametrize(("told", "reason"), [("no NVIDIA driver", "no NVIDIA driver"), ("", None)])
def test_a_device_that_does_not_tell_its_use_has_a_reason(
    document: Callable[..., Document], told: str, reason: str | None
) -> None:
    on_device = {"spec": {**SPEC, "options": {"device": "cuda"}}, "vram": {"reason": told}}
    assert document({**completed_facts(), **on_device}, completed_events())["vram_reason"] == reason


def test_the_devices_memory_is_counted_from_the_baseline(document: Callable[..., Document]) -> None:
    used = [(12, 100), (14, 400), (19, 250)]
    samples = [sample(t, reading(), minor_faults=0, major_faults=0, vram_used_bytes=nbytes) for t, nbytes in used]
    on_device = {**completed_facts(), "spec": {**SPEC, "options": {"device": "cuda"}}}
    run = document(on_device, completed_events(), samples)
    assert run["peak"]["vram_used_bytes"] == 300
    assert run["steady"]["vram_used_bytes"] == 150


def test_what_others_do_with_the_device_is_no_figure_of_a_load_on_the_cpu(document: Callable[..., Document]) -> None:
    samples = [sample(t, reading(), vram_used_bytes=nbytes) for t, nbytes in [(12, 100), (14, 400)]]
    run = document(completed_facts(), completed_events(), samples)
    assert run["peak"]["vram_used_bytes"] is None
    assert run["steady"]["vram_used_bytes"] is None


def test_where_the_total_may_have_been_higher_nobody_knows_by_how_much(document: Callable[..., Document]) -> None:
    unset = document({**completed_facts(), "baseline": {"resets": False}}, completed_events())
    assert unset["peak"]["rss_bytes"] is not None
    assert unset["peak_bracket_bytes"]["rss_bytes"] is None
    assert "clear_refs" in unset["peak_bracket_reason"]
    assert unset["peak_bracket_bytes"]["heap_bytes"] is not None


@pytest.mark.parametrize(
    ("events", "reason"),
    [([], "the load never began"), (completed_events()[:-3], "the worker died"), (completed_events(), None)],
    ids=["never began", "died", "completed"],
)
def test_a_total_that_is_not_exact_has_the_reason(
    document: Callable[..., Document], events: list[Event], reason: str | None
) -> None:
    run = document(completed_facts(), events)
    assert run["peak_bracket_bytes"]["rss_bytes"] == (0 if reason is None else None)
    assert (run["peak_bracket_reason"] or "").startswith(reason or "")
    assert bool(run["peak_bracket_reason"]) is bool(reason)


@pytest.mark.parametrize(
    ("before", "state"), [(0.0, "cold"), (0.01, "cold"), (1.0, "warm"), (0.99, "warm"), (0.25, "mixed"), (None, None)]
)
def test_a_cache_is_cold_warm_mixed_or_unknown(
    document: Callable[..., Document], before: float | None, state: str | None
) -> None:
    run = document({**completed_facts(), "cache": {"fraction_before": before, "fraction_after": None}})
    assert (run["cache"]["state"], run["cache"]["fraction_before"]) == (state, before)
    assert (run["cache"]["reason"] is None) == (state is not None)


def check_keys(run: Document) -> None:
    assert run.keys() >= KEYS.keys()
    for name, inner in KEYS.items():
        if inner is not None:
            assert run[name].keys() >= inner, name


def test_a_capture_without_anything_has_every_key(document: Callable[..., Document]) -> None:
    run = document({})
    check_keys(run)
    assert run["outcome"] is None
    assert run["message"] == "still running"


def test_a_run_that_never_reached_its_baseline_has_every_key_and_nulls_for_what_was_not_measured(
    document: Callable[..., Document],
) -> None:
    outcome = {"outcome": "failed", "message": "ImportError: no torch", "died_at": {"phase": "import", "tensor": None}}
    run = document({"spec": SPEC, "outcome": outcome}, [phase(1, "import", reading())], [sample(2, reading())])
    check_keys(run)
    assert run["died_at"] == {"phase": "import", "tensor": None}
    for part in ("baseline", "peak", "peak_bracket_bytes", "peak_at", "steady", "overhead"):
        assert set(run[part].values()) == {None}, part
    assert [run[name] for name in ("returned_s", "resident_s", "theory", "bill", "limit")] == [None] * 5
    assert {**run["tensors"], "materialised": None} == dict.fromkeys(run["tensors"])


def test_a_refused_run_has_its_theory_and_every_key(document: Callable[..., Document]) -> None:
    outcome = {"outcome": "refused", "message": "predicted not to fit", "died_at": None}
    run = document({"spec": SPEC, "outcome": outcome, "theory": {"floor_bytes": 300}})
    check_keys(run)
    assert (run["outcome"], run["theory"], run["peak"]["rss_bytes"]) == ("refused", {"floor_bytes": 300}, None)


def test_a_killed_run_has_the_figures_up_to_its_death(document: Callable[..., Document]) -> None:
    # given a run that has no 'resident', and a tensor that is still in flight
    died_at = {"phase": "read", "tensor": "a"}
    outcome = {"outcome": "oom_killed", "message": "killed", "died_at": died_at, "exit_status": -9}
    run = document(
        {"spec": SPEC, "outcome": outcome, "checkpoint": {"tensors": 1, "files": []}},
        completed_events()[:3],
        [sample(14, reading(heap=100 * MIB)), sample(25, reading(heap=2000 * MIB, mark=2100 * MIB))],
    )
    check_keys(run)
    assert run["died_at"] == died_at
    assert (run["peak"]["rss_bytes"], run["peak"]["heap_bytes"]) == (2100 * MIB, 2000 * MIB)
    assert run["peak_bracket_bytes"]["rss_bytes"] is None, "it may have been higher still when it was killed"
    assert run["peak_at"] == {"t_s": pytest.approx(0.015), "phase": "read", "tensor": "a"}
    assert sum(line["bytes"] for line in run["bill"]) == 2100 * MIB
    assert (run["returned_s"], run["resident_s"]) == (None, None)
    assert run["tensors"]["expected"] == 1
    assert run["tensors"]["verified"] is None
    assert run["tensors"]["materialised"] == 0


def test_a_run_that_fails_in_verification_keeps_its_measurement(document: Callable[..., Document]) -> None:
    outcome = {"outcome": "failed", "message": "OSError", "died_at": {"phase": "verify", "tensor": None}}
    facts = {**completed_facts(), "outcome": outcome}
    del facts["tensors"]
    run = document(facts, completed_events())
    check_keys(run)
    assert run["peak"]["rss_bytes"] == 350 * MIB
    assert run["tensors"]["verified"] is None


def test_the_share_of_the_overhead_is_of_the_time_that_each_part_was_spent_in(
    document: Callable[..., Document],
) -> None:
    """The sampler runs from the import on: its seconds are not to be held against the load's milliseconds."""
    run = document(completed_facts(), completed_events())
    assert run["overhead"]["accounted_fraction"] == pytest.approx((0.001 + 0.002 + 0.005) / 4.0 + 0.0005 / 0.010)


@pytest.mark.parametrize("missing", ["supervision", "hooks"])
def test_a_share_of_the_overhead_of_which_a_part_is_unknown_is_unknown(
    missing: str, document: Callable[..., Document]
) -> None:
    facts = completed_facts()
    del facts[missing]
    assert document(facts, completed_events())["overhead"]["accounted_fraction"] is None


LIMITED = {"bytes": 500 * MIB, "mechanism": "cgroup v2", "cgroup_peak_bytes": 490 * MIB, "note": None}
NO_POOLS = {"pinned_bytes": 0, "vram_allocated_bytes": None, "vram_reserved_bytes": None}
THEORY = {
    "floor_bytes": 900 * MIB, "peak": {"heap_bytes": 300 * MIB, "file_bytes": 600 * MIB, **NO_POOLS},
    "peak_rss_bytes": 900 * MIB, "steady": {"heap_bytes": 300 * MIB, "file_bytes": 600 * MIB, **NO_POOLS},
    "bill": [
        {"item": "floor", "pool": pool, "bytes": mib * MIB} for pool, mib in (("heap", 300), ("file", 600))
    ],
}  # fmt: skip


@pytest.mark.parametrize(("charged", "confined"), [(300 * MIB, True), (9 * MIB, True), (8 * MIB, False), (None, None)])
def test_a_run_is_confined_as_far_as_its_file_pages_were_charged_to_it(
    document: Callable[..., Document], charged: int | None, confined: bool | None
) -> None:
    # given a load that had 25 MiB of a file mapped at most
    facts = {
        "spec": {**SPEC, "limit_bytes": 500 * MIB},
        "limit": {**LIMITED, "cgroup_file_bytes": charged},
    }
    run = document(facts, completed_events())
    assert run["limit"] == {**LIMITED, "cgroup_file_bytes": charged, "confined": confined}


def test_a_limit_that_nothing_is_known_of_is_still_what_was_asked_for(document: Callable[..., Document]) -> None:
    run = document({"spec": {**SPEC, "limit_bytes": 500 * MIB}})
    assert run["limit"] == {
        "bytes": 500 * MIB, "mechanism": None, "confined": None, "cgroup_peak_bytes": None, "cgroup_file_bytes": None,
        "note": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "theory_bytes"),
    [
        ({}, 500 * MIB - 1000),  # all that the limit leaves above the heap of the baseline
        ({"cgroup_file_bytes": 0}, 900 * MIB),  # others' pages: not held by it
        ({"mechanism": "RLIMIT_DATA", "cgroup_file_bytes": None}, 900 * MIB),  # which no page of a file is held by
    ],
    ids=["confined", "not confined", "RLIMIT_DATA"],
)
def test_theory_is_told_as_far_as_the_limit_held(
    document: Callable[..., Document], change: dict[str, object], theory_bytes: int
) -> None:
    limit = {**LIMITED, "cgroup_file_bytes": 300 * MIB, **change}
    facts = {"spec": {**SPEC, "limit_bytes": 500 * MIB}, "limit": limit, "theory": THEORY}
    assert document(facts, completed_events())["theory"]["peak_rss_bytes"] == theory_bytes


def test_what_would_have_done_better_is_told_as_it_was_stored(document: Callable[..., Document]) -> None:
    better = {"strategy": "mmap-assign", "why": "", "peak": {}, "peak_rss_bytes": 1, "recipe": "model = 1"}
    assert document({"spec": SPEC, "better": better})["better"] == better


def test_how_late_samples_came_is_told_of_a_hundred_and_more() -> None:
    def late_ms(times_ms: list[int]) -> float | None:
        return _lateness_ms([Sample(t_ms * MS, 1, 1, 0, 0, 2) for t_ms in times_ms])

    even = [20 * number for number in range(200)]
    assert late_ms(even[:50]) is None
    assert late_ms([*even[:100], *(t_ms + 7 for t_ms in even[100:])]) == 0  # one of two hundred is not one of a hundred
    assert late_ms([t_ms + 5 * (number > 50) + 5 * (number > 100) for number, t_ms in enumerate(even)]) == 5
