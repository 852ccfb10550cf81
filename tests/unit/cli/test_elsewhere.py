"""What works on a system that has nothing of what only Linux has: no /proc, no /sys and none of its calls."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from meminspect.synthesis import tiny_checkpoint

TESTS = Path(__file__).parents[2]
MIB = 1 << 20
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
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.widgets.run_chart import RunChart
from textual.widgets import Static

async def main():
    app = MeminspectApp(Path(sys.argv[1]))
    async with app.run_test(size=(160, 40)) as pilot:
        while not isinstance(app.screen, RunScreen):
            await pilot.press("enter")
            await pilot.pause(0.05)
        while not app.screen.views[0].ended:
            await pilot.pause(0.05)
        await pilot.pause(0.3)  # two frames
        print(app.screen.query_one("#headline", Static).render())
        chart = app.screen.query_one(RunChart)
        print("\\n".join(chart.render_line(y).text for y in range(chart.size.height)))
        assert app.fault is None

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path_factory.mktemp("tiny") / "one")


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of processes that find themselves on another system."""
    return surroundings(tmp_path)


def surroundings(home: Path) -> dict[str, str]:
    """The same, with somebody's home."""
    places = {name: str(home) for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
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
        ".checkpoint.files.cached_fraction", ".checkpoint.file_system_reason", ".checkpoint.quantisation",
        ".machine.memory_limit_bytes", ".machine.thp",
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
    assert {row["verdict"] for row in strategies if row["available"]} == {"fits"}
    assert synth.returncode == 0, synth.stderr
    assert export.returncode == 0, export.stderr
    assert (tmp_path / "table.csv").stat().st_size > 0


@pytest.fixture(scope="module")
def ran(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """What `run` has printed there, of a strategy that maps and one that does not; and the environment."""
    environment = surroundings(tmp_path_factory.mktemp("home"))
    done = meminspect(environment, "run", "--ckpt", checkpoint, "-s", "mmap-assign,naive", "--forward", "--json")
    return done, environment


Ran: TypeAlias = tuple[subprocess.CompletedProcess[str], dict[str, str]]


def test_a_run_completes_and_verifies_with_totals_only(ran: Ran) -> None:
    done, _ = ran

    assert done.returncode == 0, done.stderr
    for run in json.loads(done.stdout)["runs"]:
        assert (run["outcome"], run["tensors"]["verified"]) == ("completed", run["tensors"]["expected"])
        pools = {
            f"{part}.{pool}_bytes": run[part].get(f"{pool}_bytes")
            for part in ("baseline", "peak", "peak_bracket_bytes", "steady")
            for pool in ("heap", "file", "pinned")
        }
        assert set(pools.values()) == {None}
        assert run["baseline"]["rss_bytes"] > MIB
        assert run["peak"]["rss_bytes"] >= 0
        assert run["pools_reason"].startswith("this system has no /proc/PID/status")
        assert run["peak_bracket_bytes"]["rss_bytes"] != 0
        assert run["peak_bracket_reason"].startswith(f"not exact: {run['pools_reason']}")
        assert sum(line["bytes"] for line in run["bill"]) == run["peak"]["rss_bytes"]
        assert run["steady"]["live_bytes"] > 0
        assert run["steady"]["rss_bytes"] is not None
        assert run["forward"]["s"] > 0
        assert run["forward"]["peak_heap_bytes"] is None
        assert (run["io"]["read_bytes"], run["cache"]["state"], run["io"]["pressure"]) == (None, None, None)
        assert run["io"]["minor_faults"] > 0


def test_its_capture_holds_totals_and_is_exported(ran: Ran, tmp_path: Path) -> None:
    done, environment = ran
    capture = json.loads(done.stdout)["runs"][0]["capture"]
    exports = [
        meminspect(environment, "export", capture, "--to", form, "--output", tmp_path / f"it.{form}")
        for form in ("csv", "json")
    ]

    assert [export.returncode for export in exports] == [0, 0], exports
    with (tmp_path / "it.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(int(row["total_bytes"]) > MIB for row in rows)
    assert {row[f"{pool}_bytes"] for row in rows for pool in ("heap", "file", "pinned", "swap")} == {""}
    samples = json.loads((tmp_path / "it.json").read_text())["samples"]
    assert {sample[samples["columns"].index("heap_bytes")] for sample in samples["rows"]} == {None}


@pytest.mark.slow
def test_the_app_runs_a_strategy_and_says_what_is_not_available(elsewhere: dict[str, str], checkpoint: Path) -> None:
    done = python(APP, elsewhere, checkpoint)

    assert done.returncode == 0, done.stderr
    assert "mmap-assign peaked at" in done.stdout
    assert "Heap, file and pinned memory not available: this system has no" in done.stdout
    assert "▒" in done.stdout


def test_fit_says_in_a_line_that_there_is_nothing_to_limit_a_process_with(
    elsewhere: dict[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    done = meminspect(elsewhere, "fit", "--ckpt", checkpoint, "-s", "naive", "--out", tmp_path / "out", "--json")

    assert done.returncode == 4
    assert json.loads(done.stdout) == {
        "schema": "meminspect.error/1",
        "error": "run",
        "message": "no memory limit can be set: this system enforces none on a process, as Linux does",
        "hint": "",
    }
    assert not (tmp_path / "out").exists()
