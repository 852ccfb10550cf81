"""What a load costs is told from what watching it costs: a load of next to nothing reads next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import Done, Home

from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

POOLS = ("heap_bytes", "file_bytes", "pinned_bytes")
TOLERANCE_BYTES = 2 << 20
CHOSEN = ("mmap-assign", "naive")  # one that maps and assigns, one that builds, reads and copies


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder: Path = tmp_path_factory.mktemp("nothing")
    checkpoint = tiny_checkpoint("llama", "meta", "meta", "float16", folder / "tiny")
    return Home(folder / "home").meminspect("run", "--ckpt", checkpoint, "-s", ",".join(CHOSEN), "--json")


def test_given_a_checkpoint_of_kilobytes_then_every_pool_reads_zero(done: Done) -> None:
    assert done.status == 0, done
    assert [run["strategy"] for run in done.document["runs"]] == list(CHOSEN)
    for run in done.document["runs"]:
        for part, keys in {"peak": (*POOLS, "rss_bytes"), "steady": (*POOLS, "trimmed_heap_bytes")}.items():
            read = {key: run[part][key] for key in keys}
            assert all(abs(nbytes) <= TOLERANCE_BYTES for nbytes in read.values()), (run["strategy"], part, read)


def test_given_a_load_that_came_to_its_end_then_the_total_is_exact_and_pools_have_their_brackets(done: Done) -> None:
    for run in done.document["runs"]:
        bracket = run["peak_bracket_bytes"]
        assert bracket["rss_bytes"] == 0
        assert all(0 <= bracket[pool] <= run["peak"]["rss_bytes"] + TOLERANCE_BYTES for pool in POOLS)


def test_given_one_run_of_each_then_the_summary_has_no_spread(done: Done) -> None:
    for run, line in zip(done.document["runs"], done.document["summary"], strict=True):
        peak, resident_s = run["peak"]["rss_bytes"], run["resident_s"]
        assert (line["strategy"], line["runs"], line["completed"]) == (run["strategy"], 1, 1)
        assert line["peak_rss_bytes"] == {"median": peak, "min": peak, "max": peak}
        assert line["resident_s"] == {"median": resident_s, "min": resident_s, "max": resident_s}
