from __future__ import annotations

from typing import Any

import pytest

from meminspect.analysis.storage_words import storage_lines

MIB, GIB = 1 << 20, 1 << 30


def run(**changed: Any) -> dict[str, Any]:
    """A cold mapped load, with parts of it replaced."""
    made: dict[str, Any] = {
        "outcome": "completed",
        "returned_s": 0.04,
        "resident_s": 1.64,
        "cache": {"state": "cold", "fraction_before": 0.0, "fraction_after": 1.0, "reason": None},
        "io": {
            "read_bytes": 2 * GIB, "bytes_per_s": 1.25 * GIB, "major_faults": 403, "minor_faults": 0, "reason": None,
            "file_system": "ext4", "network": False,
            "pressure": {"scope": "cgroup", "memory_some_s": 0.0, "io_some_s": 0.9},
        },
        "forward": None,
        "forward_reason": "not asked for",
    }  # fmt: skip
    for name, value in changed.items():
        made[name] = {**made[name], **value} if isinstance(value, dict) and made[name] else value
    return made


def lines(**changed: Any) -> list[str]:
    return storage_lines(run(**changed))


def test_a_cold_mapped_load_says_what_was_read_and_what_it_put_off() -> None:
    assert lines() == [
        "read 2.00 GiB at 1.25 GiB/s, cold page cache (0 % before, 100 % after), 403 major faults, "
        "storage pressure 900.0 ms",
        "returned after 40.0 ms; the pages came in the 1.60 s until resident",
    ]


def test_a_warm_load_that_was_resident_as_it_returned_says_little() -> None:
    quiet = {"memory_some_s": 0.04, "io_some_s": 0.0}
    said = lines(
        returned_s=1.6,
        cache={"state": "warm", "fraction_before": 1.0},
        io={"read_bytes": 0, "bytes_per_s": 0.0, "major_faults": 0, "minor_faults": 21_000,
            "pressure": {"scope": "machine", **quiet}},
    )  # fmt: skip
    assert said == ["read nothing from storage, warm page cache (100 % before, 100 % after), 21,000 minor faults"]


def test_what_nobody_tells_is_said_with_its_reason_and_never_as_nothing() -> None:
    said = lines(
        returned_s=None,
        cache={"state": None, "fraction_before": None, "fraction_after": None, "reason": "the owner's only"},
        io={"pressure": None},
    )
    assert said == ["read 2.00 GiB at 1.25 GiB/s, page cache not available: the owner's only, 403 major faults"]
    refused = {"read_bytes": None, "bytes_per_s": None, "major_faults": None, "minor_faults": None,
               "reason": "no account", "pressure": None}  # fmt: skip
    assert lines(returned_s=None, io=refused) == ["reads from storage not available: no account"]


def test_a_network_and_a_whole_machines_pressure_are_said() -> None:
    (said, _) = lines(io={"network": True, "file_system": "nfs4",
                          "pressure": {"scope": "machine", "memory_some_s": 2.0, "io_some_s": 0.0}})  # fmt: skip
    assert "on nfs4, which is reached over a network" in said
    assert said.endswith("memory pressure 2.00 s (machine)")


@pytest.mark.parametrize(
    ("read", "faults", "words"),
    [
        (0, 0, "first forward pass 1.20 s, at most 2.00 GiB above the baseline"),
        (MIB, 12, "first forward pass 1.20 s, at most 2.00 GiB above the baseline, read 1.00 MiB again, "
                  "12 major faults"),
    ],
)  # fmt: skip
def test_a_forward_pass_has_a_line_of_its_own(read: int, faults: int, words: str) -> None:
    forward = {"s": 1.2, "peak_rss_bytes": 2 * GIB, "peak_heap_bytes": 5, "read_bytes": read, "major_faults": faults}
    assert lines(forward=forward, forward_reason=None)[-1] == words


def test_a_forward_pass_that_was_asked_for_and_is_not_there_has_its_reason() -> None:
    assert lines(forward_reason="it failed: X")[-1] == "first forward pass not available: it failed: X"
    assert "forward" not in lines(forward_reason="the run did not get so far", outcome="oom_killed")[-1]
