"""Page cache, reads, pressure and the first forward pass of a run, from captures made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_events import MIB, MS, baseline, named, phase, reading, resident, sample

from meminspect.analysis.run import run_document
from meminspect.capture.records import Cached
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.sampling.pressure import NO_PRESSURE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meminspect.capture.records import Event, Sample

    Document = dict[str, Any]

OWNER = "the kernel tells only the file's owner"
CHECKPOINT = {"tensors": 2, "file_system": "ext4", "files": [{"name": "a", "bytes": 100}, {"name": "b", "bytes": 300}]}
LOADED = [baseline(10), resident(20, reading(heap=MIB))]
DIED = [baseline(10), phase(11, "read", reading())]
CACHE = {"fraction_before": 0.0, "fraction_after": 1.0, "before": [0.0, 0.0], "after": [1.0, 1.0], "reasons": {}}
BOOKS = {"read_bytes": 100, "minor_faults": 10, "major_faults": 1}


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., Document]:
    """RUN of a capture with these facts, events, samples and rows of the page cache."""

    def make(
        events: Sequence[Event], samples: Sequence[Sample] = (), seen: Sequence[Cached] = (), **facts: object
    ) -> Document:
        path = tmp_path / "run.meminspect"
        writer = CaptureWriter(path, 0)
        for name, value in {"checkpoint": CHECKPOINT, **facts}.items():
            writer.fact(name, value)
        writer.append(samples, events, [], seen)
        writer.close()
        with CaptureReader(path) as capture:
            return run_document(capture)

    return make


# --- the page cache


def test_each_file_has_its_shares_at_both_ends_and_the_extremes_between_them(document: Callable[..., Document]) -> None:
    seen = [
        Cached(5 * MS, 0, 100),  # before the baseline
        Cached(12 * MS, 0, 40), Cached(12 * MS, 1, 300), Cached(14 * MS, 0, 90), Cached(16 * MS, 1, 30),
        Cached(25 * MS, 1, 0),  # after resident
    ]  # fmt: skip
    cache = {**CACHE, "before": [0.2, 0.5], "after": [0.8, 0.9]}
    files = document(LOADED, seen=seen, cache=cache)["cache"]["files"]
    assert files == [
        {"name": "a", "fraction_before": 0.2, "lowest_during": 0.2, "highest_during": 0.9, "fraction_after": 0.8,
         "reason": None},
        {"name": "b", "fraction_before": 0.5, "lowest_during": 0.1, "highest_during": 1.0, "fraction_after": 0.9,
         "reason": None},
    ]  # fmt: skip


def test_a_run_that_died_has_the_state_that_it_began_in_and_the_shares_last_seen(
    document: Callable[..., Document],
) -> None:
    cache = {**CACHE, "fraction_after": None, "after": None}
    seen = [Cached(12 * MS, 0, 50), Cached(5 * MS, 1, 150)]  # the second has not changed since it was looked at
    run = document([*DIED, phase(15, "copy", reading())], seen=seen, cache=cache)
    assert run["cache"]["state"] == "cold"
    assert run["cache"]["fraction_after"] == 0.5
    assert [file["fraction_after"] for file in run["cache"]["files"]] == [0.5, 0.5]


def test_a_share_after_a_death_is_unknown_where_one_file_was_never_seen(document: Callable[..., Document]) -> None:
    cache = {**CACHE, "fraction_after": None, "after": None}
    run = document([*DIED, phase(15, "copy", reading())], seen=[Cached(12 * MS, 0, 50)], cache=cache)
    assert run["cache"]["fraction_after"] is None
    assert [file["fraction_after"] for file in run["cache"]["files"]] == [0.5, None]


@pytest.mark.parametrize(
    ("reasons", "said"),
    [({OWNER: [0, 1]}, OWNER), ({OWNER: [1]}, f"b: {OWNER}"), ({OWNER: [0], "ZFS": [1]}, f"a: {OWNER}")],
)
def test_an_unknown_state_has_the_reason_and_the_file_that_it_is_true_of(
    reasons: dict[str, list[int]], said: str, document: Callable[..., Document]
) -> None:
    hidden = {number for numbers in reasons.values() for number in numbers}
    shares = [None if number in hidden else 1.0 for number in range(2)]
    nothing = {"fraction_before": None, "fraction_after": None}
    run = document(LOADED, cache={**CACHE, **nothing, "before": shares, "after": shares, "reasons": reasons})
    assert (run["cache"]["state"], run["cache"]["reason"]) == (None, said)
    assert [file["reason"] is None for file in run["cache"]["files"]] == [share is not None for share in shares]
    assert [file["lowest_during"] for file in run["cache"]["files"]] == shares


def test_a_load_that_never_began_says_so(document: Callable[..., Document]) -> None:
    run = document([phase(1, "import", reading())])
    assert run["cache"]["reason"] == run["io"]["reason"] == run["io"]["pressure_reason"] == "the load never began"


def test_a_capture_of_version_1_has_its_state_and_nothing_of_its_files(document: Callable[..., Document]) -> None:
    run = document(LOADED, cache={"fraction_before": 1.0, "fraction_after": 1.0})
    assert (run["cache"]["state"], run["cache"]["reason"], run["cache"]["files"]) == ("warm", None, [])
    assert (run["io"]["pressure"], run["forward"]) == (None, None)


# --- reads and faults


def test_a_run_that_died_has_read_what_its_last_sample_says(document: Callable[..., Document]) -> None:
    samples = [
        sample(12, reading(), read_bytes=900, minor_faults=30, major_faults=2),
        sample(14, reading(), read_bytes=5100, minor_faults=40, major_faults=4),
        sample(15, reading()),  # not every sample looks
    ]
    io = document(DIED, samples, io={"before": BOOKS, "after": None})["io"]
    assert (io["read_bytes"], io["minor_faults"], io["major_faults"]) == (5000, 30, 3)
    assert io["bytes_per_s"] == pytest.approx(5000 / 0.005)


def test_reads_that_the_kernel_does_not_tell_are_unknown_with_the_reason(document: Callable[..., Document]) -> None:
    refused = {**BOOKS, "read_bytes": None}
    io = document(LOADED, io={"before": refused, "after": refused})["io"]
    assert (io["read_bytes"], io["bytes_per_s"], io["major_faults"]) == (None, None, 0)
    assert "no account" in io["reason"]


@pytest.mark.parametrize(("kind", "network"), [("ext4", False), ("nfs4", True), (None, None)])
def test_the_file_system_is_named(kind: str | None, network: bool | None, document: Callable[..., Document]) -> None:
    io = document(LOADED, checkpoint={**CHECKPOINT, "file_system": kind})["io"]
    assert (io["file_system"], io["network"]) == (kind, network)


# --- pressure

WAITED = {"memory_some_us": 0, "memory_full_us": 0, "io_some_us": 500_000, "io_full_us": 0}


def test_pressure_is_what_was_waited_between_baseline_and_end(document: Callable[..., Document]) -> None:
    after = {"memory_some_us": 1000, "memory_full_us": 500, "io_some_us": 1_400_000, "io_full_us": 250_000}
    io = document(LOADED, pressure={"scope": "cgroup", "before": WAITED, "after": after})["io"]
    assert io["pressure"] == {
        "scope": "cgroup", "memory_some_s": 0.001, "memory_full_s": 0.0005, "io_some_s": 0.9, "io_full_s": 0.25,
    }  # fmt: skip
    assert io["pressure_reason"] is None


@pytest.mark.parametrize("known", [{"before": None, "after": None}, {"before": WAITED, "after": None}])
def test_pressure_that_nobody_counts_is_unknown_with_the_reason(
    known: dict[str, Any], document: Callable[..., Document]
) -> None:
    io = document(LOADED, pressure={"scope": None, **known})["io"]
    assert (io["pressure"], io["pressure_reason"]) == (None, NO_PRESSURE)


# --- the first forward pass

ASKED = {"strategy": "naive", "forward": True}
FORWARD = {"s": 1.5, "resets": True, "before": BOOKS, "after": {**BOOKS, "read_bytes": 4100, "major_faults": 8}}


def passed(mark: int) -> list[Event]:
    return [
        *LOADED, phase(21, "first forward", reading()), named(22, "forward begins", reading(heap=10)),
        named(30, "forward ends", reading(heap=20, file=5, mark=mark)),
    ]  # fmt: skip


@pytest.mark.parametrize(("resets", "peak"), [(True, 900), (False, 77)])
def test_a_pass_has_what_it_took_above_the_baseline(resets: bool, peak: int, document: Callable[..., Document]) -> None:
    """A mark that could not be reset may be the load's: then the highest reading stands for it."""
    samples = [sample(15, reading(heap=5000)), sample(25, reading(heap=70, file=7)), sample(35, reading(heap=6000))]
    run = document(passed(mark=900), samples, spec=ASKED, forward={**FORWARD, "resets": resets})
    assert run["forward"] == {
        "s": 1.5, "peak_heap_bytes": 70, "peak_rss_bytes": peak, "major_faults": 7, "read_bytes": 4000,
    }  # fmt: skip
    assert run["forward_reason"] is None
    assert run["peak"]["heap_bytes"] == MIB, "it is no part of the load"


@pytest.mark.parametrize(
    ("spec", "forward", "events", "reason"),
    [
        ({}, None, LOADED, "not asked for"),
        (ASKED, {"error": "RuntimeError: no kernel"}, LOADED, "it failed: RuntimeError: no kernel"),
        (ASKED, {"reason": "a skeleton"}, LOADED, "a skeleton"),
        (ASKED, None, passed(mark=1)[:4], "the worker died in it"),
        (ASKED, None, DIED, "the run did not get so far"),
    ],
)
def test_a_pass_that_did_not_take_place_has_a_reason(
    spec: dict[str, Any], forward: object, events: list[Event], reason: str, document: Callable[..., Document]
) -> None:
    run = document(events, spec=spec, forward=forward)
    assert (run["forward"], run["forward_reason"]) == (None, reason)
