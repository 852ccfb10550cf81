"""`meminspect fit`: real probes under real limits."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from command_line import Home, finished, until

from meminspect.capture.store import CaptureReader

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
TOLERANCE = 64 * MIB  # and so few probes


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_the_smallest_limit_is_found_beside_theory_and_only_its_capture_is_kept(checkpoint: Path, home: Home) -> None:
    done = home.meminspect(
        "fit", "--ckpt", checkpoint, "-s", "meta-assign", "--tolerance", TOLERANCE, "--json", OMP_NUM_THREADS="1"
    )

    assert done.status == 0, done
    document = done.document
    assert (document["schema"], document["tolerance_bytes"]) == ("meminspect.fit/1", TOLERANCE)
    (fit,) = document["fits"]
    assert (fit["answer"], fit["baseline"]["source"], fit["confined"]) == ("found", "measured", True)
    assert 0 < fit["completes_at_bytes"] - fit["dies_at_bytes"] <= TOLERANCE
    assert abs(fit["difference_bytes"]) <= 2 * TOLERANCE
    assert {probe["outcome"] for probe in fit["probes"]} == {"completed", "oom_killed"}
    (kept,) = home.captures.iterdir()
    assert fit["capture"] == str(kept)
    with CaptureReader(kept) as capture:
        assert capture.fact("spec")["limit_bytes"] == fit["limit_bytes"]
        assert capture.fact("outcome")["outcome"] == "completed"
    assert "meta-assign without a limit: completed" in done.stderr.splitlines()
    assert not list(home.folder.glob("meminspect-fit-*"))


@pytest.mark.slow
def test_given_sigterm_then_the_probe_is_ended_and_nothing_passing_stays(checkpoint: Path, home: Home) -> None:
    command = home.start("fit", "--ckpt", checkpoint, "-s", "naive", "--json")
    until(lambda: list(home.folder.glob("meminspect-fit-*/0-0.meminspect")))

    command.terminate()
    done = finished(command)

    assert done.status == 128 + signal.SIGTERM, done
    assert not list(home.folder.glob("meminspect-fit-*"))
    assert not home.processes()


def test_given_ctrl_c_then_what_is_known_so_far_is_told(checkpoint: Path, home: Home) -> None:
    command = home.start("fit", "--ckpt", checkpoint, "-s", "naive,meta-assign", "--json")
    until(lambda: list(home.folder.glob("meminspect-fit-*/0-0.meminspect")))

    os.kill(command.pid, signal.SIGINT)
    done = finished(command)

    assert done.status == 130, done
    (fit,) = done.document["fits"]
    assert (fit["strategy"], fit["answer"], fit["probes"], fit["capture"]) == ("naive", "interrupted", [], None)
    assert fit["theory_bytes"] > 500 * MIB
