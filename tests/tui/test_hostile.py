"""Captures and checkpoints of somebody who means ill: their words are shown, and drive neither app nor terminal."""

from __future__ import annotations

import sqlite3
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captures
import pytest
from captures import Story
from screens import drawn, lines, on, told, until
from textual.widgets import DataTable

from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.recipe import RecipeScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

EVIL = "\x1b[31m\x07[/nothing][@click=app.quit()]\u202eevil\x9b2J\n" + "long" * 100
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SIZE = (120, 40)


def poisoned(path: Path, task: LoadTask, story: Story) -> Path:
    """A capture in which every text that an author controls is `EVIL`."""
    captures.write(path, task, story)
    with CaptureReader(path) as reader:
        facts = {name: reader.fact(name) for name in ("spec", "checkpoint", "vram", "recipe", "better", "outcome")}
    facts["spec"]["strategy"] = facts["spec"]["checkpoint"] = facts["checkpoint"]["path"] = EVIL
    facts["checkpoint"]["layout"] = facts["checkpoint"]["architecture"] = facts["outcome"]["message"] = EVIL
    facts["vram"], facts["recipe"] = {"reason": EVIL}, EVIL
    if facts["better"]:
        facts["better"]["strategy"] = facts["better"]["recipe"] = EVIL
    if facts["outcome"]["died_at"]:
        facts["outcome"]["died_at"] = {"phase": EVIL, "tensor": EVIL}
    database = sqlite3.connect(path)
    with database:
        for name, value in facts.items():
            CaptureWriter.fact(_On(database), name, value)
        database.execute("UPDATE events SET name = ? WHERE kind IN ('begin', 'end', 'release', 'phase')", (EVIL,))
        database.execute("UPDATE ledger SET item = ?, tensor = ?", (EVIL, EVIL))
        database.execute("INSERT INTO log VALUES (0, ?, ?)", (EVIL, EVIL))
    database.close()
    return path


class _On(CaptureWriter):
    """A writer on a database that is there already."""

    def __init__(self, database: sqlite3.Connection) -> None:
        database.isolation_level = None
        self._db = database


def is_harmless(pilot: Pilot[Any]) -> bool:
    """Nothing on the screen is a control character or changes the direction of writing; the app is as it was."""
    wild = {
        char
        for line in lines(pilot)
        for char in line
        if unicodedata.category(char) in ("Cc", "Cs") or char in DIRECTIONS
    }
    assert not wild, f"{sorted(wild)} on {pilot.app.screen}"
    return pilot.app.return_value is None


@pytest.mark.parametrize(
    "story",
    [
        Story("naive"),
        pytest.param(Story("naive", 0.7, "oom_killed", "x"), marks=pytest.mark.slow),
        pytest.param(Story("naive", 0, "failed"), marks=pytest.mark.slow),
    ],
)
async def test_a_hostile_capture_is_shown_in_every_part_of_its_screen(task: LoadTask, story: Story) -> None:
    path = poisoned(Path("run.meminspect"), task, story)
    async with MeminspectApp(captures=[path]).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        for key in "1234":
            await pilot.press(key)
            await pilot.pause()
            assert is_harmless(pilot)
        assert "evil" in told(pilot, "#headline")
        await pilot.press("i")
        await pilot.pause()
        assert is_harmless(pilot)
        if isinstance(pilot.app.screen, RecipeScreen):
            await pilot.press("escape")
        await pilot.press("question_mark")
        await pilot.pause()
        assert is_harmless(pilot)
        await pilot.press("escape", "slash", *"[/")
        await pilot.pause()
        assert is_harmless(pilot)


async def test_a_hostile_capture_that_could_be_bettered_shows_how(task: LoadTask) -> None:
    path = poisoned(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        await pilot.press("i")
        await on(pilot, RecipeScreen)
        assert is_harmless(pilot)
        assert any("evil" in line for line in lines(pilot))


async def test_hostile_captures_are_compared(task: LoadTask) -> None:
    stories = (Story("naive"), Story("sharded"), Story("naive", 0.7, "oom_killed", "x"))
    paths = [poisoned(Path(f"{number}.meminspect"), task, story) for number, story in enumerate(stories)]
    async with MeminspectApp(captures=paths).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        assert is_harmless(pilot)
        table = pilot.app.screen.query_one("#table").region
        assert sum("evil" in line for line in lines(pilot)[table.y : table.bottom]) >= 2  # each takes several
        await pilot.press("right", "enter")
        await on(pilot, RunScreen)
        assert is_harmless(pilot)


async def test_hostile_captures_are_listed(task: LoadTask) -> None:
    folder = Path("captures")
    poisoned(folder / "1.meminspect", task, Story("naive"))
    (folder / "2[\x1b[31m\u202e].meminspect").write_bytes(b"bad")
    async with MeminspectApp(Path("llama-1.3b"), folder=folder).run_test(size=SIZE) as pilot:
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        table = pilot.app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2 and all(w.is_finished for w in pilot.app.screen.workers))
        await pilot.press("space", "down", "space")
        assert is_harmless(pilot)
        assert sum("evil" in line for line in lines(pilot)) == 1


async def test_a_hostile_export_s_name_is_told(task: LoadTask) -> None:
    path = captures.write(Path("[@click=app.quit()]\x1b[31m.meminspect"), task, Story("mmap-assign"))
    async with MeminspectApp(captures=[path]).run_test(size=SIZE, notifications=True) as pilot:
        await drawn(pilot)
        await pilot.press("e", "enter")
        await until(pilot, lambda: any("written" in line for line in lines(pilot)))
        assert is_harmless(pilot)


async def test_a_hostile_checkpoint_path_is_shown(task: LoadTask) -> None:
    evil = Path("evil[/x]\x1b[31m\u202e")
    evil.parent.mkdir()
    task.checkpoint.path.rename(evil)
    async with MeminspectApp(evil).run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, StartScreen) and "x]" in told(pilot, "#subject"))
        assert is_harmless(pilot)
        await pilot.press("i")
        await on(pilot, RecipeScreen)
        assert is_harmless(pilot)


async def test_hostile_paths_are_offered_and_typed_only_where_harmless(task: LoadTask) -> None:
    for name in ("lol[x=]", "lol[@click=app.quit()]", "lol\x1b[31m", "lol\u202e"):
        Path(name).mkdir()
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await pilot.press(*"lol")
        await until(pilot, lambda: pilot.app.screen.query_one("#candidates").option_count == 4)
        assert is_harmless(pilot)
        await pilot.press("tab", "down", "enter")
        await pilot.pause()
        assert is_harmless(pilot)
