"""The mouse, the sizes of terminals, the fields and buttons of dialogs, and what is not on offer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captures
import pytest
from captures import Story
from screens import (
    CHECKPOINT,
    TO_LIMIT,
    FakeSession,
    drawn,
    listed,
    offered,
    on,
    planned,
    session,
    settled,
    told,
    towards,
    until,
)
from textual.widgets import Button, DataTable, Input, Select, TabbedContent
from textual.widgets._footer import FooterKey

from meminspect.tui.app import MeminspectApp
from meminspect.tui.screens.confirm import ConfirmScreen
from meminspect.tui.screens.export import ExportScreen
from meminspect.tui.screens.help import HelpScreen
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.options import OptionsScreen
from meminspect.tui.screens.pick import PickScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.recipe import RecipeScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.widgets.run_chart import RunChart
from meminspect.tui.widgets.strategy_list import StrategyList

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

FOLDER = Path("captures")
SIZE = (100, 24)


def at_start() -> MeminspectApp:
    return MeminspectApp(CHECKPOINT, folder=FOLDER)


async def click_key(pilot: Pilot[Any], words: str) -> None:
    """Click a key of the footer by its words, once it stands still: a footer is made anew whenever its keys change."""
    await settled(pilot)
    key = next(key for key in pilot.app.screen.query(FooterKey) if key.description == words)
    assert await pilot.click(key)


def notices(pilot: Pilot[Any]) -> list[str]:
    return [notice.message for notice in pilot.app._notifications]


# What is not on offer


async def test_before_there_is_a_plan_only_what_needs_none_is_offered(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meminspect.checkpoint import read_checkpoint

    may_read = threading.Event()
    monkeypatch.setattr(
        "meminspect.checkpoint.read_checkpoint", lambda path: may_read.wait(10) and read_checkpoint(path)
    )
    async with at_start().run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "reading the headers of llama-1.3b" in told(pilot, "#subject"))
        assert not {"mark", "race", "recipe", "options", "run"} & offered(pilot)
        assert {"history", "help", "quit"} <= offered(pilot)
        await pilot.press("space", "r", "i", "o", "enter")
        assert isinstance(pilot.app.screen, StartScreen)

        may_read.set()
        await planned(pilot)

        assert {"mark", "race", "recipe", "options", "run", "history", "help", "quit"} <= offered(pilot)
        assert FakeSession.begun == []


async def test_a_race_has_room_for_so_many(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meminspect.tui.screens.start.MOST_PANELS", 2)
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("home", "space", "r")
        assert notices(pilot) == ["mark two to 2 strategies with space first"]
        await pilot.press("down", "space", "down", "space")
        assert notices(pilot)[1:] == ["a race has room for 2"]
        first, second, third, *_ = listed(pilot)
        assert pilot.app.screen.query_one(StrategyList).marked == [first, second]
        await pilot.press("up", "space", "down", "space")
        assert pilot.app.screen.query_one(StrategyList).marked == [first, third]


async def test_a_strategy_that_cannot_load_this_says_why_and_never_begins(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.strategies.strategy.Strategy.why_not", _not_mapped)
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("home", *["down"] * listed(pilot).index("mmap-assign"))
        await until(pilot, lambda: "not available: it [/]cannot" in told(pilot, "#details"))
        await pilot.press("space", "enter")
        assert notices(pilot) == [
            "mmap-assign is not available: it [/]cannot",
            "mmap-assign cannot load this: it [/]cannot",
        ]
        assert pilot.app.screen.query_one(StrategyList).marked == []
        assert FakeSession.begun == []
        assert isinstance(pilot.app.screen, StartScreen)


def _not_mapped(strategy: Any, *_: object) -> str | None:
    return "it [/]cannot" if strategy.id == "mmap-assign" else None


async def test_so_many_captures_are_compared_and_no_fewer_than_two(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.tui.screens.history.MOST_PANELS", 2)
    for number in range(3):
        captures.write(FOLDER / f"{number}.meminspect", task, Story("mmap-assign"))
    async with at_start().run_test(size=SIZE) as pilot:
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        table = pilot.app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 3)
        await pilot.press("space", "c")
        assert notices(pilot) == ["mark two to 2 captures with space first"]
        await pilot.press("down", "space", "down", "space")
        assert notices(pilot)[1:] == ["at most 2 can be compared"]
        assert [str(table.get_row_at(row)[0]).strip() for row in range(3)] == ["◉", "◉", ""]
        await pilot.press("up", "space")
        assert [str(table.get_row_at(row)[0]).strip() for row in range(3)] == ["◉", "", ""]


# Dialogs


async def test_options_are_kept_and_offered_again(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press(*towards(pilot, "meta-assign"), "space")
        await pilot.press("o", *TO_LIMIT, *"3GiB", "enter")  # enter in the field takes them
        await on(pilot, StartScreen)
        await until(pilot, lambda: "limit 3.00 GiB" in told(pilot, "#details"))
        strategies = pilot.app.screen.query_one(StrategyList)
        assert strategies.marked == ["meta-assign"]
        assert listed(pilot)[strategies.highlighted or 0] == "meta-assign"

        await pilot.press("o")
        await on(pilot, OptionsScreen)
        assert pilot.app.screen.query_one("#limit", Input).value == "3.00GiB"
        await pilot.press(*TO_LIMIT, "9", "escape")

        await on(pilot, StartScreen)
        assert "limit 3.00 GiB" in told(pilot, "#details")


async def test_a_dtype_is_chosen_with_keys(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", "tab", "enter", "down", "enter")
        chosen = pilot.app.screen.query_one("#dtype", Select).value
        assert chosen != "as stored"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: f"options: cpu, {chosen}, " in told(pilot, "#details"))


async def test_strategies_are_sorted_by_what_is_chosen_and_the_cursor_stays_with_its_own(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press(*towards(pilot, "sharded"), "o")
        await on(pilot, OptionsScreen)
        pilot.app.screen.query_one("#aim", Select).value = "soonest resident"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "by soonest resident" in told(pilot, "#details"))
        row = pilot.app.screen.query_one(StrategyList).row
        assert row is not None
        assert row.strategy.id == "sharded"
        assert "less to move until it is resident" in told(pilot, "#answer")


@pytest.mark.slow
@pytest.mark.parametrize(("button", "takes"), [("#take", True), ("#leave", False)])
async def test_the_buttons_of_the_options(task: LoadTask, button: str, *, takes: bool) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", *TO_LIMIT, *"3GiB")
        await pilot.click(button)
        await on(pilot, StartScreen)
        await until(pilot, lambda: ("limit 3.00 GiB" in told(pilot, "#details")) is takes)


async def test_what_is_wrong_with_a_limit_goes_when_it_is_right(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", *TO_LIMIT, "3")
        await until(pilot, lambda: "3 B leaves a process no room" in told(pilot, "#error"))
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, OptionsScreen)
        await pilot.press(*"GiB")
        await until(pilot, lambda: told(pilot, "#error") == "")


@pytest.mark.slow
async def test_a_time_limit_is_checked_kept_and_offered_again(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", *TO_LIMIT, "tab", "tab", *"10x")
        await until(pilot, lambda: "time limit: '10x' is not a time" in told(pilot, "#error"))
        await pilot.press("backspace", *"min", "enter")
        await until(pilot, lambda: "at most 10:00 min" in told(pilot, "#details"))
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        assert pilot.app.screen.query_one("#timeout", Input).value == "600s"


@pytest.mark.slow
@pytest.mark.parametrize(("button", "begins"), [("#yes", True), ("#no", False)])
async def test_the_buttons_of_a_question(task: LoadTask, button: str, *, begins: bool) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", *TO_LIMIT, *"4GiB", "enter")
        await until(pilot, lambda: "limit 4.00 GiB" in told(pilot, "#details"))
        await pilot.press("home", *["down"] * listed(pilot).index("naive"), "enter")
        await on(pilot, ConfirmScreen)
        assert "predicted to need 5.0" in told(pilot)
        assert "It will be killed at the limit" in told(pilot)
        assert pilot.app.focused is pilot.app.screen.query_one("#no", Button)
        await pilot.click(button)
        if begins:
            run = await session(pilot)
            assert run.spec.force
            assert run.spec.limit_bytes == 4 << 30
            run.end()
            await drawn(pilot)
        else:
            await on(pilot, StartScreen)
            assert FakeSession.begun == []


async def test_help_is_not_opened_over_help_and_tells_what_works_here(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        await pilot.press("question_mark")
        await on(pilot, HelpScreen)
        words = told(pilot)
        assert all(part in words for part in ("export", "better recipe", "1-4", "esc", "where the run died"))
        assert "cancel" not in words
        await pilot.press("question_mark")
        await on(pilot, RunScreen)


# The mouse


@pytest.mark.slow
async def test_the_footer_s_keys_are_clicked(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        for words, screen in (("recipe", RecipeScreen), ("options", OptionsScreen), ("help", HelpScreen)):
            await click_key(pilot, words)
            await on(pilot, screen)
            await pilot.press("escape")
            await on(pilot, StartScreen)
        await click_key(pilot, "history")
        await on(pilot, HistoryScreen)
        await click_key(pilot, "back")
        await on(pilot, StartScreen)
        await click_key(pilot, "quit")
        await until(pilot, lambda: pilot.app.return_value is not None)


@pytest.mark.slow
async def test_the_details_are_chosen_by_clicking(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    async with MeminspectApp(captures=[path]).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        for tab in ("log", "tensors", "recipe", "peak"):
            await pilot.click(f"#--content-tab-{tab}")
            await until(pilot, lambda tab=tab: pilot.app.screen.query_one(TabbedContent).active == tab)


@pytest.mark.slow
async def test_one_click_goes_to_a_panel_and_a_second_opens_it(task: LoadTask) -> None:
    paths = [captures.write(Path(f"{name}.meminspect"), task, Story(name)) for name in ("naive", "sharded")]
    async with MeminspectApp(captures=paths).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        await pilot.click("#panel-1")
        assert isinstance(pilot.app.screen, RaceScreen)
        assert pilot.app.focused is pilot.app.screen.query_one("#panel-1")
        await pilot.click("#panel-1", times=2)
        await on(pilot, RunScreen)
        await drawn(pilot)
        assert "sharded peaked" in told(pilot, "#headline")


@pytest.mark.slow
async def test_captures_and_formats_are_chosen_by_clicking(task: LoadTask) -> None:
    for number, name in enumerate(("naive", "mmap-assign")):
        captures.write(FOLDER / f"{number}.meminspect", task, Story(name))
    async with at_start().run_test(size=SIZE) as pilot:
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        table = pilot.app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2)
        await pilot.click(DataTable, offset=(30, 2))
        await until(pilot, lambda: table.cursor_row == 1)
        await pilot.click(DataTable, offset=(30, 2))
        await on(pilot, RunScreen)
        await drawn(pilot)
        assert "naive peaked" in told(pilot, "#headline")
        await click_key(pilot, "export")
        await on(pilot, ExportScreen)
        await pilot.click("OptionList", offset=(5, 1))
        await until(pilot, Path("0.csv").exists)
        await on(pilot, RunScreen)


@pytest.mark.slow
async def test_a_candidate_is_opened_and_a_folder_gone_into_by_clicking(task: LoadTask) -> None:
    inside = Path("folder/inside.safetensors")
    inside.parent.mkdir()
    inside.write_bytes(b"")
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await on(pilot, PickScreen)
        await pilot.press("f")
        await pilot.click("#candidates", offset=(3, 0))
        await until(pilot, lambda: pilot.app.screen.query_one("#path", Input).value == "folder/")
        await pilot.click("#candidates", offset=(3, 0))
        await until(pilot, lambda: "inside.safetensors" in told(pilot, "#error"))


async def test_the_details_that_a_key_shows_are_moved_through_at_once(task: LoadTask) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive", log=tuple("abcdefghijklmnopqrst")))
    async with MeminspectApp(captures=[path]).run_test(size=SIZE) as pilot:
        await drawn(pilot)
        for key, within in (("3", "#steps"), ("4", "#lines"), ("2", "#figures"), ("1", "#rows")):
            await pilot.press(key)
            read = pilot.app.screen.query_one(within)
            await until(pilot, lambda read=read: pilot.app.focused is read)
            await pilot.press("home")
            assert read.scroll_offset.y == 0
            await pilot.press("end")
            await until(pilot, lambda read=read: read.scroll_offset.y == read.max_scroll_y > 0)


# Sizes


async def _start(_: Pilot[Any]) -> None: ...


async def _history(pilot: Pilot[Any]) -> None:
    await pilot.press("h")
    await on(pilot, HistoryScreen)


async def _run(pilot: Pilot[Any]) -> None:
    await _history(pilot)
    await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 2)
    await pilot.press("enter")
    await drawn(pilot)
    await pilot.press("1")


async def _race(pilot: Pilot[Any]) -> None:
    await _history(pilot)
    await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 2)
    await pilot.press("space", "down", "space", "c")
    await drawn(pilot)


async def _pick(pilot: Pilot[Any]) -> None:
    await pilot.press("p")
    await on(pilot, PickScreen)


@pytest.mark.parametrize(
    "go", [_run, *(pytest.param(go, marks=pytest.mark.slow) for go in (_start, _history, _race, _pick))]
)
async def test_a_terminal_that_shrinks_says_so_and_one_that_grows_again_shows_what_it_did(
    task: LoadTask, go: Any
) -> None:
    for name in ("naive", "sharded"):
        captures.write(FOLDER / f"{name}.meminspect", task, Story(name))
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await go(pilot)
        screen = pilot.app.screen
        seen = {widget for widget in screen.children if widget.display}
        focused = screen.focused
        charts = [chart.size for chart in screen.query(RunChart)]
        for tiny in ((30, 24), (100, 5), (1, 1), (59, 14)):
            await pilot.resize_terminal(*tiny)
            await until(pilot, lambda: [widget.id for widget in screen.children if widget.display] == ["too-small"])
        await pilot.resize_terminal(60, 15)
        await until(pilot, lambda: {widget for widget in screen.children if widget.display} == seen)
        await pilot.resize_terminal(*SIZE)
        await until(pilot, lambda: [chart.size for chart in screen.query(RunChart)] == charts)
        assert pilot.app.screen is screen
        await until(pilot, lambda: screen.focused is focused)
        await pilot.resize_terminal(20, 5)
        if not isinstance(screen, PickScreen):  # where a letter is a part of a path
            await pilot.press("q")
            await until(pilot, lambda: pilot.app.return_value is not None)


@pytest.mark.slow
async def test_a_dialog_outlives_a_terminal_that_shrinks(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", *TO_LIMIT, "3")
        await pilot.resize_terminal(20, 5)
        await until(pilot, lambda: pilot.app.focused is None)
        await pilot.resize_terminal(*SIZE)
        await until(pilot, lambda: pilot.app.focused is not None)
        await pilot.press(*"3GiB", "enter")  # going into a field selects what is in it
        await until(pilot, lambda: "limit 3.00 GiB" in told(pilot, "#details"))


# Palette


async def test_the_palette_does_what_its_line_says(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        commands = {command.title: command for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert commands["Options"].help == "key o"
        commands["Options"].callback()
        await on(pilot, OptionsScreen)
        assert "Race" not in {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
