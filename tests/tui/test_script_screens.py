"""A run of the user's own code on the screens: like any other, without theory, and with what it costs in words."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import captures
import pytest
from captures import Story
from screens import drawn, on, told, until
from test_places import FOLDER, at_start
from textual.widgets import DataTable

from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.history import HistoryScreen

if TYPE_CHECKING:
    from meminspect.strategies import LoadTask

SCRIPT = {"path": "src/load.py", "entry": "", "arguments": [], "folder": "/work"}
SIZE = (80, 24)


def as_script(path: Path) -> Path:
    """Make a strategy's capture one of a script that did the same: nobody knows its checkpoint, or a theory."""
    with closing(sqlite3.connect(path)) as db, db:
        (spec,) = db.execute("SELECT value FROM facts WHERE name = 'spec'").fetchone()
        changed = json.dumps({**json.loads(spec), "strategy": "script", "script": SCRIPT})
        db.execute("UPDATE facts SET value = ? WHERE name = 'spec'", (changed,))
        db.execute("DELETE FROM facts WHERE name IN ('theory', 'checkpoint', 'resident', 'better')")
        db.execute("DELETE FROM ledger")
    return path


@pytest.fixture
def capture(task: LoadTask) -> Path:
    return as_script(captures.write(FOLDER / "0.meminspect", task, Story("naive")))


async def test_its_answer_is_above_the_picture_and_the_rest_is_with_the_bill(capture: Path) -> None:
    async with MeminspectApp(captures=[capture]).run_test(size=SIZE) as pilot:
        await drawn(pilot)

        headline = told(pilot, "#headline")
        assert "script peaked at 7.52 GiB" in headline
        assert "→ the whole state dict, " in headline
        bill = told(pilot, "#bill")
        assert "no theory: no header tells what code does" in bill
        assert "stream does without" in bill


async def test_it_is_in_the_history_by_its_name(capture: Path) -> None:
    assert capture.exists()
    async with at_start().run_test(size=(120, 40)) as pilot:
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        table = pilot.app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 1 and "script" in map(str, table.get_row_at(0)))

        assert "load.py" in map(str, table.get_row_at(0))


async def test_it_stands_beside_a_strategy(capture: Path, task: LoadTask) -> None:
    other = captures.write(Path("other.meminspect"), task, Story("meta-assign"))
    async with MeminspectApp(captures=[capture, other]).run_test(size=SIZE) as pilot:
        await drawn(pilot)

        assert "meta-assign took least heap" in told(pilot)
