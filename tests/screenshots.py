"""Draws the pictures in screenshots/ from real runs: `python -m tests.screenshots`.

The app on a LLaMA of 2.5 GiB, on a GPU too where torch has one, and the command line on the demo, each as SVG, and as
PNG by a headless Chromium where there is one. Nothing is written outside a temporary folder, the demo in the cache and
screenshots/.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from rich.console import Console
from rich.text import Text
from textual.widgets import Select

from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise
from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.watch import WatchScreen
from meminspect.tui.widgets.strategy_list import StrategyList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from textual.pilot import Pilot

    from meminspect.analysis.follow import RunView

FOLDER: Final = Path(__file__).parents[1] / "screenshots"
COLUMNS: Final = 100
COMMANDS: Final = {
    "inspect": ["inspect", "--demo"],
    "plan": ["plan", "--demo"],
    "run": ["run", "--demo", "-s", "all"],
}
CHECKPOINT: Final = Path("llama-1.3b")
RACED: Final = ("mmap-assign", "stream", "meta-assign", "naive")
MEDIUM, SMALL, LARGE = (120, 40), (80, 24), (200, 60)
DEADLINE_S: Final = 300


def draw_command(name: str, arguments: list[str], home: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CACHE_HOME": str(Path("~/.cache").expanduser()),
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
    }
    command = [sys.executable, "-m", "meminspect", *arguments]
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - till we exit
    console.print(Text("$ meminspect " + " ".join(arguments), style="bold"))
    console.print(Text.from_ansi(finished.stdout.rstrip()), soft_wrap=True)
    console.save_svg(str(FOLDER / f"{name}.svg"), title="meminspect", unique_id="meminspect")


async def draw_app(home: Path) -> None:
    """Walk through the app as a user would, and keep what is on the screen."""
    async with _app(home, MEDIUM) as (app, pilot):
        await _until(pilot, lambda: app.standby is not None)
        _keep(app, "app-start")
        await pilot.resize_terminal(*SMALL)
        await pilot.pause()
        _keep(app, "app-start-80")
        await pilot.resize_terminal(*MEDIUM)
        await _choose(app, pilot, "naive")
        await pilot.press("enter")
        await _until(pilot, lambda: "copy" in [name for _, name in _view(app).phases])
        _keep(app, "app-run")
        await _until(pilot, lambda: _has_ended(app))
        _keep(app, "app-result")
        await pilot.resize_terminal(*SMALL)
        await pilot.pause()
        _keep(app, "app-result-80")
        await pilot.resize_terminal(*MEDIUM)
        await pilot.press("escape")
        await _race(app, pilot)
        _keep(app, "app-race")
        await pilot.resize_terminal(*LARGE)
        await pilot.pause()
        _keep(app, "app-race-200")
        await pilot.resize_terminal(*MEDIUM)
        await pilot.press("escape", "h")
        await _until(pilot, lambda: not app.screen.workers or all(worker.is_finished for worker in app.screen.workers))
        _keep(app, "app-history")


async def draw_killed(home: Path) -> None:
    """A run that does not survive its limit."""
    async with _app(home, MEDIUM) as (app, pilot):
        async with _options(app, pilot):
            app.screen.query_one("#limit").focus()
            await pilot.press(*"4GiB")
        await _choose(app, pilot, "naive")
        await pilot.press("enter", "y")
        await _until(pilot, lambda: _has_ended(app))
        _keep(app, "app-killed")


async def draw_on_gpu(home: Path) -> None:
    """A race to a CUDA device."""
    async with _app(home, MEDIUM) as (app, pilot):
        async with _options(app, pilot):
            app.screen.query_one("#device", Select).value = "cuda"
        await _race(app, pilot)
        _keep(app, "app-race-gpu")


@contextlib.asynccontextmanager
async def _app(home: Path, size: tuple[int, int]) -> AsyncIterator[tuple[MeminspectApp, Pilot[int]]]:
    app = MeminspectApp(CHECKPOINT, folder=home / "captures")
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        yield app, pilot
        await app.action_quit()


@contextlib.asynccontextmanager
async def _options(app: MeminspectApp, pilot: Pilot[int]) -> AsyncIterator[None]:
    """The dialog, whose fields are set meanwhile and taken at the end."""
    await _until(pilot, lambda: app.standby is not None)
    await pilot.press("o")
    yield
    await pilot.press("ctrl+s")
    await _until(pilot, lambda: app.standby is not None)


async def _race(app: MeminspectApp, pilot: Pilot[int]) -> None:
    for strategy in RACED:
        await _choose(app, pilot, strategy)
        await pilot.press("space")
    await pilot.press("r")
    await _until(pilot, lambda: _has_ended(app))


async def _choose(app: MeminspectApp, pilot: Pilot[int], strategy: str) -> None:
    rows = app.screen.query_one(StrategyList)
    rows.highlighted = rows.get_option_index(strategy)
    await pilot.pause()


def _watch(app: MeminspectApp) -> WatchScreen:
    assert isinstance(app.screen, WatchScreen), f"{app.screen} shows no run"
    return app.screen


def _view(app: MeminspectApp) -> RunView:
    return _watch(app).views[0]


def _has_ended(app: MeminspectApp) -> bool:
    return all(view.ended for view in _watch(app).views) and not _watch(app).running


async def _until(pilot: Pilot[int], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        await pilot.pause(0.02)
    await pilot.pause(0.3)  # what is true has yet to be drawn


def _keep(app: MeminspectApp, name: str) -> None:
    (FOLDER / f"{name}.svg").write_text(app.export_screenshot(title="meminspect"))


def to_png(svg: Path, profile: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg.read_text())
    if chromium is None or size is None:
        return
    width, height = (int(float(side)) + 2 for side in size.groups())
    options = (
        "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={profile / 'chromium'} "
        f"--window-size={width},{height} --default-background-color=00000000 --screenshot={svg.with_suffix('.png')}"
    )
    subprocess.run([chromium, *options.split(), svg.as_uri()], check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        home = Path(folder)
        architecture = architecture_for("llama", "meta", parameters=1_300_000_000)
        synthesise(SynthesisSpec(CHECKPOINT, architecture, "meta"))
        asyncio.run(draw_app(home))
        asyncio.run(draw_killed(home))
        if torch.cuda.is_available():
            asyncio.run(draw_on_gpu(home))
        for name, arguments in COMMANDS.items():
            draw_command(name, arguments, home)
        for svg in sorted(FOLDER.glob("*.svg")):
            to_png(svg, home)


if __name__ == "__main__":
    main()
