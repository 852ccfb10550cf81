"""Every key of every screen does what its words say; `test_every_key_has_its_test` holds this file to that."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captures
import pytest
from captures import Story
from conftest import CHECKPOINT
from screens import FakeSession, FakeStandby, Writing, drawn, planned, until, watch
from textual.binding import Binding
from textual.dom import DOMNode
from textual.widgets import DataTable, Input, OptionList, Select, TabbedContent

import meminspect.tui
from meminspect.capture.store import CaptureReader
from meminspect.strategies import STRATEGIES
from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.confirm import ConfirmScreen
from meminspect.tui.screens.export import ExportScreen
from meminspect.tui.screens.help import HelpScreen
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.message import MessageScreen
from meminspect.tui.screens.options import OptionsScreen
from meminspect.tui.screens.pick import PickScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.recipe import RecipeScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.widgets.strategy_list import StrategyList
from meminspect.tui.widgets.tensor_log import TensorLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

# Class and key → the test that presses it.
PRESSED: dict[tuple[str, str], str] = {}


def presses(*keys: str) -> Any:
    """Say which keys a test presses, as ``StartScreen.r``."""

    def remember(test: Any) -> Any:
        for key in keys:
            owner, _, name = key.partition(".")
            PRESSED[owner, name] = test.__name__
        return test

    return remember


def at_start(folder: Path = Path("captures")) -> MeminspectApp:
    return MeminspectApp(CHECKPOINT, folder=folder)


def shown(pilot: Pilot[Any], selector: str) -> str:
    return str(pilot.app.screen.query_one(selector).render())


async def on(pilot: Pilot[Any], kind: type) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))


async def running(pilot: Pilot[Any], count: int = 1) -> FakeSession:
    """So many sessions have begun; the last of them."""
    await until(pilot, lambda: len(FakeSession.begun) == count)
    return FakeSession.begun[-1]


def test_every_key_has_its_test() -> None:
    found = {(owner.__name__, key) for owner in _nodes() for key in _keys(owner)}

    assert found - set(PRESSED) == set(), "keys without a test"
    assert set(PRESSED) - found == set(), "tests of keys that there are not"


def _nodes() -> Iterator[type[DOMNode]]:
    for module in pkgutil.walk_packages(meminspect.tui.__path__, "meminspect.tui."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, DOMNode) and value.__module__ == module.name:
                yield value


def _keys(owner: type[DOMNode]) -> Iterator[str]:
    for binding in owner.__dict__.get("BINDINGS", ()):
        yield from (binding.key if isinstance(binding, Binding) else binding[0]).split(",")


# The app


@presses("MeminspectApp.q", "MeminspectApp.ctrl+c")
@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_quitting_ends_what_runs_and_what_waits(task: LoadTask, key: str) -> None:
    app = at_start()
    async with app.run_test() as pilot:
        await planned(pilot)
        await pilot.press("enter")
        session = await running(pilot)
        app.standby = waiting = FakeStandby()  # type: ignore[assignment]

        await pilot.press(key)
        await until(pilot, lambda: app.return_value is not None)

    assert session.cancelled
    assert waiting.closed
    assert app.return_value == 0
    with CaptureReader(session.spec.capture) as capture:
        assert capture.fact("outcome")["outcome"] == "cancelled"


async def test_ctrl_c_quits_from_a_dialog_and_from_a_field(task: LoadTask) -> None:
    app = at_start()
    async with app.run_test() as pilot:
        await planned(pilot)
        await pilot.press("o", "tab", "tab", "tab", "8", "ctrl+c")
        await until(pilot, lambda: app.return_value is not None)


@presses("MeminspectApp.question_mark", "HelpScreen.question_mark", "Dialog.escape")
async def test_help_lists_the_keys_of_this_screen_and_goes(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("question_mark")
        await on(pilot, HelpScreen)
        told = "\n".join(str(static.render()) for static in pilot.app.screen.query("Static"))
        assert all(words in told for words in ("mark", "race", "recipe", "options", "history", "dark or light", "heap"))
        await pilot.press("question_mark")
        await on(pilot, StartScreen)
        await pilot.press("question_mark", "escape")
        await on(pilot, StartScreen)


@presses("MeminspectApp.d")
async def test_d_changes_between_dark_and_light(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        before = pilot.app.current_theme.dark
        await pilot.press("d")
        assert pilot.app.current_theme.dark is not before
        await pilot.press("d")
        assert pilot.app.current_theme.dark is before


async def test_the_palette_offers_every_key_by_its_words(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        titles = {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert {"Mark", "Race", "Recipe", "Options", "History", "Help", "Quit", "Theme"} <= titles


# Start


@presses("StrategyList.enter")
async def test_enter_runs_the_strategy_under_the_cursor_with_the_worker_that_waits(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await until(pilot, lambda: FakeStandby.made)
        await pilot.press("down", "enter")
        session = await running(pilot)
        assert session.spec.strategy == list(STRATEGIES)[1]
        assert session.standby is FakeStandby.made[-1]
        assert not session.spec.force
        await on(pilot, RunScreen)
        session.end()
        await drawn(pilot)
        assert "peaked at 2.51 GiB" in shown(pilot, "#headline")


@presses("StartScreen.space", "StartScreen.r")
async def test_marked_strategies_race_in_turn_and_the_finished_ones_stay(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("r")  # nothing is marked
        assert isinstance(pilot.app.screen, StartScreen)
        await pilot.press("space", "down", "space", "down", "space", "space", "r")
        await on(pilot, RaceScreen)
        first = await running(pilot)
        assert len(FakeSession.begun) == 1
        first.end()
        second = await running(pilot, 2)
        await until(pilot, lambda: watch(pilot).views[0].ended)
        assert [session.spec.strategy for session in FakeSession.begun] == list(STRATEGIES)[:2]
        assert second.standby is None, "one worker waits for one run"
        second.end()
        await drawn(pilot)
        assert "took least heap" in shown(pilot, "#headline")


@presses("StartScreen.i", "RecipeScreen.i", "RecipeScreen.c")
async def test_i_shows_the_recipe_and_c_copies_it(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("i")
        await on(pilot, RecipeScreen)
        await pilot.press("c")
        assert pilot.app.clipboard == STRATEGIES["mmap-assign"].recipe(task)
        await pilot.press("i")
        await on(pilot, StartScreen)


@presses("StartScreen.o", "OptionsScreen.ctrl+s")
async def test_options_reach_the_run(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        screen = pilot.app.screen
        screen.query_one("#dtype", Select).value = "bfloat16"
        screen.query_one("#init-dtype", Select).value = "float16"
        screen.query_one("#cache", Select).value = "cold"
        screen.query_one("#limit", Input).value = "12GiB"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "limit 12.00 GiB" in shown(pilot, "#details"))
        await pilot.press("home", "enter")
        spec = (await running(pilot)).spec
        assert (spec.options.dtype, spec.options.init_dtype) == ("bfloat16", "float16")
        assert (spec.limit_bytes, spec.cache) == (12 << 30, "cold")
        FakeSession.begun[-1].end()


@pytest.mark.parametrize("size", ["six", "0", "-1", "1e9"])
async def test_a_limit_that_is_none_is_not_taken(task: LoadTask, size: str) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        pilot.app.screen.query_one("#limit", Input).value = size
        await until(pilot, lambda: "memory limit: " in shown(pilot, "#error"))
        await pilot.press("ctrl+s")
        assert isinstance(pilot.app.screen, OptionsScreen)
        await pilot.press("escape")
        await on(pilot, StartScreen)
        assert "no limit" in shown(pilot, "#details")


@presses("StartScreen.h", "HistoryScreen.escape")
async def test_h_shows_the_history_and_escape_leads_back(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        await pilot.press("escape")
        await on(pilot, StartScreen)


@presses("StartScreen.p")
async def test_p_leads_to_the_picker_and_back_to_another_worker_that_waits(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await until(pilot, lambda: FakeStandby.made)
        await pilot.press("p")
        await on(pilot, PickScreen)
        await pilot.press(*str(CHECKPOINT), "enter")
        await planned(pilot)
        await until(pilot, lambda: len(FakeStandby.made) == 2)
        assert [standby.closed for standby in FakeStandby.made] == [True, False], "used memory counts in the plan"
        await pilot.press("q")
    assert FakeStandby.made[-1].closed


@presses("ConfirmScreen.y", "ConfirmScreen.n")
@pytest.mark.parametrize(("key", "runs"), [("n", False), ("escape", False), ("enter", False), ("y", True)])
async def test_what_does_not_fit_asks_first(task: LoadTask, key: str, *, runs: bool) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        pilot.app.screen.query_one("#limit", Input).value = "4GiB"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "limit 4.00 GiB" in shown(pilot, "#details"))
        await pilot.press("end", "enter")
        await on(pilot, ConfirmScreen)
        await pilot.press(key)
        if runs:
            session = await running(pilot)
            assert session.spec.force
            session.end()
            return
        await on(pilot, StartScreen)
        await pilot.pause(0.1)
        assert FakeSession.begun == []


async def test_the_mouse_does_the_same(task: LoadTask) -> None:
    async with at_start().run_test(size=(120, 40)) as pilot:
        await planned(pilot)
        await pilot.click(StrategyList, offset=(8, 1))
        strategies = pilot.app.screen.query_one(StrategyList)
        await until(pilot, lambda: strategies.highlighted == 1)
        assert FakeSession.begun == [], "one click only goes to a line"
        await pilot.click(StrategyList, offset=(8, 1), times=2)
        session = await running(pilot)
        assert session.spec.strategy == list(STRATEGIES)[1]
        session.end()
        await drawn(pilot)
        await pilot.click("#--content-tab-recipe")
        await until(pilot, lambda: pilot.app.screen.query_one(TabbedContent).active == "recipe")
        await pilot.click("FooterKey")  # the first of them: details


# Pick


@presses("_PathInput.tab", "_PathInput.enter", "PickScreen.escape")
async def test_tab_stays_where_nothing_begins_like_that(task: LoadTask) -> None:
    async with MeminspectApp().run_test() as pilot:
        await on(pilot, PickScreen)
        await pilot.press(*"/no/such", "tab", "q")
        assert pilot.app.screen.query_one("#path", Input).value == "/no/suchq"


async def test_a_path_is_completed_and_opened(task: LoadTask) -> None:
    async with MeminspectApp().run_test() as pilot:
        await on(pilot, PickScreen)
        await pilot.press("x", "escape")
        assert pilot.app.screen.query_one(Input).value == ""
        await pilot.press("l", "l", "tab")
        assert pilot.app.screen.query_one(Input).value == "llama-1.3b/"
        await pilot.press("enter")
        await planned(pilot)


@presses("_PathInput.down")
async def test_a_candidate_is_chosen_from_the_list(task: LoadTask) -> None:
    async with MeminspectApp().run_test() as pilot:
        await on(pilot, PickScreen)
        await pilot.press("l", "down")
        assert isinstance(pilot.app.focused, OptionList)
        await pilot.press("enter")
        await planned(pilot)


@presses("PickScreen.ctrl+r")
async def test_the_picker_leads_to_the_history(task: LoadTask) -> None:
    async with MeminspectApp(folder=Path("captures")).run_test() as pilot:
        await on(pilot, PickScreen)
        await pilot.press("ctrl+r")
        await on(pilot, HistoryScreen)


async def test_a_checkpoint_of_before_and_the_demo_are_offered(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    captures.write(Path("captures/20261124-120000-x.meminspect"), task, Story("naive"))
    monkeypatch.setattr("meminspect.synthesis.demo_checkpoint", lambda progress: progress(1, 2) or CHECKPOINT)
    async with MeminspectApp(folder=Path("captures")).run_test() as pilot:
        candidates = pilot.app.screen.query_one("#candidates", OptionList)
        await until(pilot, lambda: candidates.option_count == 2)
        assert "loaded before" in str(candidates.get_option_at_index(0).prompt)
        await pilot.press("down", "end", "enter")
        await planned(pilot)


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
@pytest.mark.parametrize(("down", "suffix"), [(0, "json"), (1, "csv"), (2, "svg")])
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


async def test_a_defect_in_a_thread_is_told_and_logged_and_the_app_goes_on(
    task: LoadTask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("meminspect.tui.following.RunFollower.poll", breaks)
    app = MeminspectApp(captures=[path])
    async with app.run_test() as pilot:
        await on(pilot, MessageScreen)
        told = "\n".join(str(static.render()) for static in app.screen.query("Static"))
        assert "internal error while reading the capture: ZeroDivisionError: of ours" in told
        await pilot.press("enter")
        await on(pilot, RunScreen)
    (log,) = home.rglob("app.log")
    assert "Traceback" in log.read_text()


async def test_a_defect_in_drawing_ends_the_app_with_a_line_and_a_log(
    task: LoadTask, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    monkeypatch.setattr("meminspect.tui.widgets.run_chart.draw", lambda *_: 1 / 0)
    app = MeminspectApp(captures=[path])

    with pytest.raises(ZeroDivisionError):  # as the test's driver of the app hands it on
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.fault is not None)

    assert app.fault is not None
    assert app.fault.message.startswith("internal error while drawing the screen: ZeroDivisionError")
    (log,) = home.rglob("app.log")
    assert "Traceback" in log.read_text()
    assert "Traceback" not in "".join(capsys.readouterr())
