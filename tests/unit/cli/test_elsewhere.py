"""What works on a system that has nothing of what only Linux has: no /proc, no /sys and none of its calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meminspect.synthesis import tiny_checkpoint

TESTS = Path(__file__).parents[2]
CAPTURE = TESTS / "golden" / "capture-v2.meminspect"

EVERYTHING = """
import importlib, pkgutil, meminspect
for module in pkgutil.walk_packages(meminspect.__path__, "meminspect."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

APP = """
import asyncio, sys
from pathlib import Path
from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.message import MessageScreen
from textual.widgets import Static

async def main():
    app = MeminspectApp(Path(sys.argv[1]))
    async with app.run_test(size=(120, 40)) as pilot:
        while not isinstance(app.screen, MessageScreen):
            await pilot.pause(0.01)
        print(*(text.render() for text in app.screen.query(Static)))
        await pilot.press("escape")
        assert not app.screen.has_class("-unread")
        print(app.screen.query_one("#subject", Static).render())
        app.stand_by(sys.executable)  # as with every plan that follows
        assert app.standby is None and app.fault is None

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path_factory.mktemp("tiny") / "one")


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of processes that find themselves on another system."""
    places = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    path = os.pathsep.join((str(TESTS / "elsewhere"), str(TESTS.parent)))
    return {**os.environ, **places, "PYTHONPATH": path, "COLUMNS": "200"}


def python(code: str, environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def meminspect(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return python("import meminspect.cli as cli; raise SystemExit(cli.main())", environment, *arguments)


def nulls(document: object, path: str = "") -> set[str]:
    """Where a document holds null or nothing at all, without the numbers of lists."""
    if isinstance(document, dict):
        return set().union(*(nulls(value, f"{path}.{key}") for key, value in document.items()))
    if isinstance(document, list):
        return set().union(*(nulls(value, path) for value in document))
    return {path} if document is None or (document == 0 and document is not False) else set()


def test_every_module_imports(elsewhere: dict[str, str]) -> None:
    done = python(EVERYTHING, elsewhere)

    assert done.returncode == 0, done.stderr


def test_it_is_another_system_indeed(elsewhere: dict[str, str]) -> None:
    missing = "import os, sys; print(sys.platform, hasattr(os, 'memfd_create'), os.access('/proc/self', os.R_OK))"
    done = python(f"try: {missing}\nexcept FileNotFoundError as error: print(sys.platform, error)", elsewhere)

    assert done.stdout.startswith("darwin [Errno 2]"), done.stderr


def test_inspect_tells_what_it_can_and_why_the_rest_is_null(elsewhere: dict[str, str], checkpoint: Path) -> None:
    done = meminspect(elsewhere, "inspect", "--ckpt", checkpoint, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    machine, files = found["machine"], found["checkpoint"]["files"]
    assert machine["ram_total_bytes"] > machine["ram_available_bytes"] > 0
    assert found["checkpoint"]["file_system"]  # psutil knows
    assert {file["cached_fraction"] for file in files} == {None}
    assert {file["cached_reason"] for file in files} == {"meminspect can ask Linux only what is in the page cache"}
    assert machine["memory_limit_bytes"] is machine["thp"] is None
    assert machine["reasons"]["memory_limit_bytes"] == "this system has no cgroups"
    assert machine["reasons"]["thp"].startswith("this system has no transparent huge pages")
    assert nulls(found) - {".machine.swap_free_bytes"} == {
        ".checkpoint.files.cached_fraction", ".checkpoint.file_system_reason", ".machine.memory_limit_bytes",
        ".machine.thp",
    }  # fmt: skip


def test_inspect_says_not_available_where_it_does_not_know(elsewhere: dict[str, str], checkpoint: Path) -> None:
    done = meminspect(elsewhere, "inspect", "--ckpt", checkpoint)

    assert (done.returncode, done.stderr) == (0, "")
    assert "share in page cache not available" in done.stdout
    assert "in cache: not available, meminspect can ask Linux only" in done.stdout
    assert " 0 %" not in done.stdout


def test_plan_and_synth_and_export_work(elsewhere: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    plan = meminspect(elsewhere, "plan", "--ckpt", checkpoint, "--json")
    synth = meminspect(elsewhere, "synth", tmp_path / "made", "--params", "1M")
    export = meminspect(elsewhere, "export", CAPTURE, "--to", "csv", "--output", tmp_path / "table.csv")

    assert (plan.returncode, plan.stderr) == (0, "")
    strategies: list[dict[str, Any]] = json.loads(plan.stdout)["strategies"]
    assert {row["verdict"] for row in strategies} == {"fits"}
    assert synth.returncode == 0, synth.stderr
    assert export.returncode == 0, export.stderr
    assert (tmp_path / "table.csv").stat().st_size > 0


def test_the_app_has_its_plan_and_says_once_that_nothing_can_be_run(
    elsewhere: dict[str, str], checkpoint: Path
) -> None:
    done = python(APP, elsewhere, checkpoint)

    assert done.returncode == 0, done.stderr
    assert "a run can't be measured on this system" in done.stdout
    assert "share in page cache not available" in done.stdout


@pytest.mark.parametrize("verb", ["run", "fit"])
def test_a_run_ends_at_once_with_what_is_missing_and_what_works(
    elsewhere: dict[str, str], checkpoint: Path, tmp_path: Path, verb: str
) -> None:
    done = meminspect(elsewhere, verb, "--ckpt", checkpoint, "-s", "naive", "--out", tmp_path / "out", "--json")

    assert done.returncode == 4
    assert json.loads(done.stdout) == {
        "schema": "meminspect.error/1",
        "error": "run",
        "message": "a run can't be measured on this system: there is no /proc/PID/status to read, which tells heap, "
        "file and pinned memory",
        "hint": "inspect, plan, synth, view and export work here; run on Linux, and view the capture that it leaves "
        "anywhere",
    }
    assert not (tmp_path / "out").exists()
