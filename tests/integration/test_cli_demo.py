"""`python -m meminspect demo`, as a user starts it; with a demo of a megabyte, in a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The command's own entry point, with nothing changed but how much it writes.
_SMALL_DEMO = """
import sys
from meminspect.cli import main
from meminspect.synthesis import demo
demo._DEMO_PARAMETERS = 1_000_000
sys.exit(main())
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def meminspect(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _SMALL_DEMO, *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_demo_is_written_once_used_and_removed(cache: Path) -> None:
    written = meminspect(cache, "demo")
    found = meminspect(cache, "demo")
    planned = meminspect(cache, "plan", "--demo")
    removed = meminspect(cache, "demo", "--remove")
    again = meminspect(cache, "demo", "--remove")

    assert [done.returncode for done in (written, found, planned, removed, again)] == [0] * 5
    assert Path(written.stdout.rstrip("\n")).is_relative_to(cache)  # the path and nothing else, for scripts
    assert "100 %" in written.stderr
    assert (found.stdout, found.stderr) == (written.stdout, "")
    assert planned.stdout.startswith("Take ")
    assert removed.stdout.startswith("removed the demo: ")
    assert removed.stdout.endswith(" MiB freed\n")
    assert again.stdout == "there was no demo: 0 B freed\n"
    assert not Path(written.stdout.rstrip("\n")).exists()


def test_a_first_use_under_json_keeps_stdout_for_the_document(cache: Path) -> None:
    done = meminspect(cache, "inspect", "--demo", "--json")

    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert "writing the demo checkpoint" in done.stderr


def test_a_cache_that_cannot_be_written_is_said(cache: Path) -> None:
    cache.write_text("a file where a folder belongs")

    done = meminspect(cache, "demo")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("meminspect: error: cannot write ")
