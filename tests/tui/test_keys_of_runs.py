"""Every key does what its words say: those of a run, of a race and of the history."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import captures
import pytest
from captures import Story
from keys import at_start, on, presses, running, shown
from screens import FakeSession, Writing, drawn, planned, until, watch
from textual.widgets import DataTable, TabbedContent

from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.confirm import ConfirmScreen
from meminspect.tui.screens.export import ExportScreen
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.message import MessageScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.recipe import RecipeScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.widgets.tensor_log import TensorLog

if TYPE_CHECKING:
    from meminspect.strategies import LoadTask

# Run


@presses("RunScreen.1", "RunScreen.2", "RunScreen.3", "RunScreen.4")
async def test_the_numbers_show_the_details(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive", log=("a word",)))
    async with MeminspectApp(captures=[path]).run_test() as pilot:
        await drawn(pilot)
        tabs = pilot.app.screen.query_one(TabbedContent)
        for key, tab in zip("1324", ("tensors", "recipe", "peak", "log"), strict=True):
            await pilot.press(key)
            assert tabs.active == tab


@presses(*(f"TensorLog.{key}" for key in ("up", "k", "down", "j", "pageup", "pagedown", "home", "g", "end", "G")))
async def test_the_tensors_are_moved_through(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test() as pilot:
        await drawn(pilot)
        await pilot.press("1")
        log, rows = pilot.app.screen.query_one(TensorLog), watch(pilot).views[0].operations
        for keys, index in ((("home",), 0), (("down", "j"), 2), (("up", "k"), 0), (("end",), -1), (("g",), 0)):
            await pilot.press(*keys)
            assert log.highlighted == rows[index], keys
        await pilot.press("pagedown")
        assert log.highlighted not in (rows[0], rows[1])
        await pilot.press("pageup")
        assert log.highlighted == rows[0]
        await pilot.press("G")
        assert log.following


@presses("RunScreen.slash", "RunScreen.escape")
async def test_tensors_are_filtered_and_escape_goes_step_by_step(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test() as pilot:
        await drawn(pilot)
        log = pilot.app.screen.query_one(TensorLog)
        whole = log.matching
        await pilot.press("slash", *"lm_head")
        assert 0 < log.matching < whole
        await pilot.press("enter")
        assert pilot.app.focused is log
        await pilot.press("escape")
        assert log.matching == whole
        await pilot.press("escape")  # there is nothing below a capture that was named
        await until(pilot, lambda: pilot.app.return_value is not None)


@presses("RunScreen.x")
async def test_x_cancels_and_what_was_recorded_is_shown(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("enter")
        session = await running(pilot)
        await on(pilot, RunScreen)
        await pilot.press("x")
        await drawn(pilot)
        assert session.cancelled
        assert "cancelled" in shown(pilot, "#headline")
        assert not watch(pilot).check_action("cancel", ())


@pytest.mark.parametrize(("answer", "left"), [("n", False), ("y", True)])
async def test_leaving_a_run_that_is_under_way_asks(task: LoadTask, answer: str, *, left: bool) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("enter")
        session = await running(pilot)
        await on(pilot, RunScreen)
        await pilot.press("escape")
        await on(pilot, ConfirmScreen)
        await pilot.press(answer)
        await on(pilot, StartScreen if left else RunScreen)
        assert session.cancelled is left
        session.end()


@presses("RunScreen.i")
async def test_i_shows_what_does_better(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test() as pilot:
        await drawn(pilot)
        await pilot.press("i")
        await on(pilot, RecipeScreen)
        assert pilot.app.screen.query_one(".box").border_title == "mmap-assign: what is executed"


@presses("RunScreen.e")
@pytest.mark.parametrize(
    ("down", "suffix"),
    [pytest.param(0, "json", marks=pytest.mark.slow), pytest.param(1, "csv", marks=pytest.mark.slow), (2, "svg")],
)
async def test_e_exports_beside_what_is_there(task: LoadTask, down: int, suffix: str) -> None:
    path = captures.write(Path("captures/run.meminspect"), task, Story("mmap-assign"))
    Path(f"run.{suffix}").write_text("somebody's")
    async with MeminspectApp(captures=[path]).run_test() as pilot:
        await drawn(pilot)
        await pilot.press("e")
        await on(pilot, ExportScreen)
        await pilot.press(*["down"] * down, "enter")
        written = Path(f"run-2.{suffix}")
        await until(pilot, written.exists)
    assert Path(f"run.{suffix}").read_text() == "somebody's"
    text = written.read_text()
    assert {"json": '"schema": "meminspect.capture/1"', "csv": "t_s,heap_bytes", "svg": "<svg"}[suffix] in text
    if suffix == "json":
        assert json.loads(text)["run"]["strategy"] == "mmap-assign"


async def test_keys_that_make_no_sense_yet_are_not_offered(task: LoadTask) -> None:
    path = captures.write(Path("live.meminspect"), task, Story("naive", 0.5, None))
    app = at_start()
    async with app.run_test() as pilot:
        await planned(pilot)
        app.open_captures([path], Writing("naive"))  # type: ignore[arg-type]
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.views[0].load_ns)
        offered = {active.binding.action for active in app.screen.active_bindings.values() if active.enabled}
        assert "cancel" in offered
        assert not {"export", "better"} & offered


# Race and history


@presses("RaceScreen.enter", "RaceScreen.right", "RaceScreen.left", "RaceScreen.e", "RaceScreen.escape")
async def test_a_panel_is_chosen_opened_and_exported(task: LoadTask) -> None:
    paths = [captures.write(Path(f"{name}.meminspect"), task, Story(name)) for name in ("naive", "sharded")]
    async with MeminspectApp(captures=paths).run_test() as pilot:
        await drawn(pilot)
        await pilot.press("right", "e")
        await on(pilot, ExportScreen)
        await pilot.press("enter")
        await until(pilot, Path("sharded.json").exists)
        await pilot.press("left", "enter")
        await on(pilot, RunScreen)
        await drawn(pilot)
        assert "naive peaked" in shown(pilot, "#headline")
        await pilot.press("escape")
        await on(pilot, RaceScreen)
        await pilot.click("#panel-1", times=2)
        await on(pilot, RunScreen)
        await pilot.press("escape", "escape")
        await until(pilot, lambda: pilot.app.return_value is not None)


@presses("RaceScreen.x")
async def test_cancelling_a_race_ends_this_one_and_begins_no_other(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("space", "down", "space", "r")
        await on(pilot, RaceScreen)
        session = await running(pilot)
        await pilot.press("x")
        await until(pilot, lambda: watch(pilot).views[0].ended and not watch(pilot).running)
        assert session.cancelled
        assert len(FakeSession.begun) == 1
        panel = pilot.app.screen.query_one("#panel-1")
        await until(pilot, lambda: "not run" in str(panel.border_title))


@pytest.mark.slow
async def test_leaving_one_run_of_a_race_that_goes_on_does_not_ask(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("space", "down", "space", "r")
        await on(pilot, RaceScreen)
        (await running(pilot)).end()
        second = await running(pilot, 2)
        await until(pilot, lambda: watch(pilot).views[0].ended)
        await pilot.press("enter")
        await on(pilot, RunScreen)
        await drawn(pilot)
        await pilot.press("escape")
        await on(pilot, RaceScreen)
        assert not second.cancelled
        second.end()


@presses("_Captures.enter", "HistoryScreen.space", "HistoryScreen.c")
@pytest.mark.slow
async def test_captures_are_opened_and_compared(task: LoadTask) -> None:
    for day, name in enumerate(("naive", "sharded")):
        captures.write(Path(f"captures/2026112{day}-120000-{name}.meminspect"), task, Story(name))
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 2)
        await pilot.press("c")  # nothing is marked
        assert isinstance(pilot.app.screen, HistoryScreen)
        await pilot.press("enter")
        await drawn(pilot)
        assert "sharded peaked" in shown(pilot, "#headline"), "the newest is the first"
        await pilot.press("escape", "space", "down", "space", "c")
        await on(pilot, RaceScreen)
        await drawn(pilot)
        assert len(watch(pilot).views) == 2


async def test_the_history_is_in_the_order_of_time_whatever_the_files_are_called(task: LoadTask) -> None:
    for minute, name in ((2, "a"), (1, "b"), (3, "c")):
        path = captures.write(Path(f"captures/20261120-120000-{name}.meminspect"), task, Story("naive"))
        with sqlite3.connect(path) as database:
            wall = f"2026-11-24T12:0{minute}:00+00:00"
            database.execute("UPDATE facts SET value = ? WHERE name = 'started'", (json.dumps({"wall": wall}),))
    async with at_start().run_test(size=(80, 24)) as pilot:
        await planned(pilot)
        await pilot.press("h")
        await on(pilot, HistoryScreen)

        def shown_now() -> list[str]:
            table = pilot.app.screen.query_one(DataTable)
            return [str(table.get_row_at(row)[1]) for row in range(table.row_count)]

        await until(pilot, lambda: shown_now() == ["11-24 12:03", "11-24 12:02", "11-24 12:01"])
        await pilot.press("space")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: shown_now()[0] == "2026-11-24 12:03")
        table = pilot.app.screen.query_one(DataTable)
        assert [str(table.get_row_at(row)[0]) for row in range(3)] == ["◉", " ", " "]
        assert "theory" in [str(column.value) for column in table.columns]


# What goes wrong


@presses("MessageScreen.enter")
async def test_a_run_that_leaves_no_capture_is_told_and_the_app_goes_on(task: LoadTask) -> None:
    from meminspect.errors import CaptureError

    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("enter")
        session = await running(pilot)
        session.failure = CaptureError("the disk is full", "name another place")
        session.end()
        await on(pilot, MessageScreen)
        told = "\n".join(str(static.render()) for static in pilot.app.screen.query("Static"))
        assert "the disk is full" in told
        assert "name another place" in told
        await pilot.press("enter", "escape")
        await on(pilot, StartScreen)
