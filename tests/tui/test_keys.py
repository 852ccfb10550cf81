"""Every key does what its words say: the app's, the start screen's and the picker's; of all, that it has its test."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

import captures
import pytest
from captures import Story
from keys import PRESSED, at_start, on, presses, running, shown
from screens import CHECKPOINT, TO_LIMIT, FakeSession, FakeStandby, drawn, listed, planned, until, watch
from textual.binding import Binding
from textual.dom import DOMNode
from textual.widgets import Input, OptionList, Select, TabbedContent

import meminspect.tui
from meminspect.capture.store import CaptureReader
from meminspect.strategies import STRATEGIES
from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.confirm import ConfirmScreen
from meminspect.tui.screens.help import HelpScreen
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.options import OptionsScreen
from meminspect.tui.screens.pick import PickScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.recipe import RecipeScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.widgets.strategy_list import StrategyList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies import LoadTask


def test_every_key_has_its_test() -> None:
    importlib.import_module("test_keys_of_runs")  # which a run of this file alone has not read
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
@pytest.mark.parametrize("key", ["q", pytest.param("ctrl+c", marks=pytest.mark.slow)])
async def test_quitting_ends_what_runs_and_what_waits(task: LoadTask, key: str) -> None:
    app = at_start()
    async with app.run_test() as pilot:
        await planned(pilot)
        await pilot.press("enter")
        session = await running(pilot)
        app.standby = waiting = FakeStandby("python")  # type: ignore[assignment]

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
        await pilot.press("o", *TO_LIMIT, "8", "ctrl+c")
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
        second = listed(pilot)[1]
        await pilot.press("down", "enter")
        session = await running(pilot)
        assert session.spec.strategy == second
        assert session.standby is FakeStandby.made[-1]
        assert not session.spec.force
        await on(pilot, RunScreen)
        session.end()
        await drawn(pilot)
        assert f"{second} peaked at " in shown(pilot, "#headline")


@presses("StartScreen.space", "StartScreen.r")
async def test_marked_strategies_race_in_turn_and_the_finished_ones_stay(task: LoadTask) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("r")  # nothing is marked
        assert isinstance(pilot.app.screen, StartScreen)
        marked = listed(pilot)[:2]
        await pilot.press("space", "down", "space", "down", "space", "space", "r")
        await on(pilot, RaceScreen)
        first = await running(pilot)
        assert len(FakeSession.begun) == 1
        first.end()
        second = await running(pilot, 2)
        await until(pilot, lambda: watch(pilot).views[0].ended)
        assert [session.spec.strategy for session in FakeSession.begun] == marked
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
        screen.query_one("#quantisation", Select).value = "nf4"
        screen.query_one("#cache", Select).value = "cold"
        screen.query_one("#forward", Select).value = "yes"
        screen.query_one("#max-memory", Input).value = "3GiB"
        screen.query_one("#limit", Input).value = "12GiB"
        screen.query_one("#timeout", Input).value = "10min"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "limit 12.00 GiB" in shown(pilot, "#details"))
        await pilot.press("home", "enter")
        spec = (await running(pilot)).spec
        assert (spec.options.dtype, spec.options.init_dtype) == ("bfloat16", "float16")
        assert (spec.options.quantisation, spec.options.max_memory_bytes) == ("nf4", 3 << 30)
        assert (spec.limit_bytes, spec.cache, spec.timeout_s, spec.forward) == (12 << 30, "cold", 600.0, True)
        FakeSession.begun[-1].end()


@pytest.mark.parametrize("size", ["six", *(pytest.param(size, marks=pytest.mark.slow) for size in ("0", "-1", "1e9"))])
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
@pytest.mark.parametrize(
    ("key", "runs"),
    [
        pytest.param("n", False, marks=pytest.mark.slow),
        pytest.param("escape", False, marks=pytest.mark.slow),
        ("enter", False),
        ("y", True),
    ],
)
async def test_what_does_not_fit_asks_first(task: LoadTask, key: str, *, runs: bool) -> None:
    async with at_start().run_test() as pilot:
        await planned(pilot)
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        pilot.app.screen.query_one("#limit", Input).value = "4GiB"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "limit 4.00 GiB" in shown(pilot, "#details"))
        at = listed(pilot).index("naive")
        await pilot.press("home", *["down"] * at, "enter")
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


@pytest.mark.slow
async def test_the_mouse_does_the_same(task: LoadTask) -> None:
    async with at_start().run_test(size=(120, 40)) as pilot:
        await planned(pilot)
        await pilot.click(StrategyList, offset=(8, 1))
        strategies, second = pilot.app.screen.query_one(StrategyList), listed(pilot)[1]
        await until(pilot, lambda: strategies.highlighted == 1)
        assert FakeSession.begun == [], "one click only goes to a line"
        await pilot.click(StrategyList, offset=(8, 1), times=2)
        session = await running(pilot)
        assert session.spec.strategy == second
        session.end()
        await drawn(pilot)
        await pilot.click("#--content-tab-recipe")
        await until(pilot, lambda: pilot.app.screen.query_one(TabbedContent).active == "recipe")
        await pilot.click("FooterKey")  # the first of them: details


# Pick


async def test_tab_stays_where_nothing_begins_like_that(task: LoadTask) -> None:
    async with MeminspectApp().run_test() as pilot:
        await on(pilot, PickScreen)
        await pilot.press(*"/no/such", "tab", "q")
        assert pilot.app.screen.query_one("#path", Input).value == "/no/suchq"


@presses("_PathInput.tab", "_PathInput.enter", "PickScreen.escape")
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
