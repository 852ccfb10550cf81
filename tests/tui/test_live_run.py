"""Runs under way: what is seen of them while their captures grow, and what becomes of them when the user goes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from screens import (
    CHECKPOINT,
    FakeSession,
    FakeStandby,
    drawn,
    offered,
    on,
    planned,
    session,
    told,
    towards,
    until,
    watch,
)
from textual.widgets import Input, TabbedContent

from meminspect.capture.store import CaptureReader
from meminspect.tui.app import MeminspectApp
from meminspect.tui.runs import Runs
from meminspect.tui.screens.confirm import ConfirmScreen
from meminspect.tui.screens.help import HelpScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.widgets.run_chart import RunChart
from meminspect.tui.widgets.tensor_log import TensorLog

if TYPE_CHECKING:
    from typing import Any

    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

SIZE = (100, 24)


def at_start() -> MeminspectApp:
    return MeminspectApp(CHECKPOINT, folder=Path("captures"))


async def begun(pilot: Pilot[Any], *, naive: bool = False) -> FakeSession:
    """The recommended strategy's run has begun, or the naive one's; nothing is recorded yet."""
    await planned(pilot)
    await pilot.press(*(towards(pilot, "naive") if naive else ()), "enter")
    await on(pilot, RunScreen)
    return await session(pilot)


async def race_begun(pilot: Pilot[Any]) -> FakeSession:
    """The first of three has begun."""
    await planned(pilot)
    for strategy in ("mmap-assign", "meta-assign", "sharded"):
        await pilot.press(*towards(pilot, strategy), "space")
    await pilot.press("r")
    await on(pilot, RaceScreen)
    return await session(pilot)


def titles(pilot: Pilot[Any]) -> list[str]:
    return [panel._border_title.plain for panel in pilot.app.screen.query(RunChart)]


def runs_under_way() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Runs)]


# One run


async def test_a_run_is_seen_to_start_to_load_and_to_end(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        # given a run of which there is no capture yet
        run = await begun(pilot, naive=True)
        screen = pilot.app.screen
        await until(pilot, lambda: "starting …" in told(pilot, "#headline"))
        assert not screen.query_one(RunChart).display

        # when it begins
        run.reaches(-0.1)
        await until(pilot, lambda: "naive · importing torch …" in told(pilot, "#headline"))
        assert "the load: predicted to peak at 7.5" in told(pilot, "#starting")
        assert not screen.query_one(RunChart).display

        # when it loads
        run.reaches(0.5)
        await until(pilot, lambda: " left" in told(pilot, "#headline"))
        headline = told(pilot, "#headline")
        assert "naive · building the model model." in headline
        assert "27 % of 10.0" in headline
        assert "peak 2.81 GiB of 7.5" in headline
        assert screen.query_one(RunChart).display
        assert not screen.query_one("#starting").display
        assert screen.query_one(TensorLog).matching > 0
        assert screen.query_one(TabbedContent).active == "tensors"
        seen = screen.query_one(TensorLog).matching

        # when it goes on
        run.reaches(0.9)
        await until(pilot, lambda: "naive · copying model." in told(pilot, "#headline"))
        assert screen.query_one(TensorLog).matching > seen

        # when it is over
        run.end()
        await drawn(pilot)
        assert "naive peaked at 7.52 GiB" in told(pilot, "#headline")
        assert screen.query_one(TabbedContent).active == "peak"


async def test_the_details_that_the_user_looks_at_stay_when_the_run_ends(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot)
        run.reaches(0.5)
        await pilot.press("3")

        run.end()
        await drawn(pilot)

        assert pilot.app.screen.query_one(TabbedContent).active == "recipe"


async def test_a_filter_that_is_being_typed_is_not_taken_away_when_the_run_ends(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot)
        run.reaches(0.5)
        await until(pilot, lambda: pilot.app.screen.query_one(TensorLog).matching)
        await pilot.press("slash", *"norm")

        run.end()
        await drawn(pilot)
        await pilot.press("x")

        assert pilot.app.screen.query_one(TabbedContent).active == "tensors"
        assert pilot.app.focused is pilot.app.screen.query_one("#filter", Input)
        assert pilot.app.screen.query_one("#filter", Input).value == "normx"


async def test_what_the_loading_code_prints_is_shown_as_it_comes(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot)
        live = run.reaches(0.2)
        await pilot.press("4")
        for number, line in enumerate(("half [red]way[/]", "done"), 1):
            live.prints(line)
            await until(pilot, lambda number=number: len(pilot.app.screen.query_one("#lines").lines) == number)

        assert [strip.text.rstrip() for strip in pilot.app.screen.query_one("#lines").lines] == [
            "half [red]way[/]",
            "done",
        ]
        run.end()


async def test_keys_are_offered_as_soon_as_they_make_sense_and_no_longer(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot, naive=True)
        run.reaches(0.5)
        await until(pilot, lambda: "cancel" in offered(pilot))
        assert not {"export", "better recipe"} & offered(pilot)
        await pilot.press("e", "i")
        assert isinstance(pilot.app.screen, RunScreen)

        run.end()
        await drawn(pilot)
        await until(pilot, lambda: "cancel" not in offered(pilot))
        assert {"export", "better recipe"} <= offered(pilot)


async def test_the_help_of_a_run_tells_its_keys_and_its_picture(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot)
        run.reaches(0.5)
        await until(pilot, lambda: "cancel" in offered(pilot))
        await pilot.press("question_mark")
        await on(pilot, HelpScreen)

        words = told(pilot)

        for part in ("cancel", "details", "filter", "back", "where the run died", "What the picture means"):
            assert part in words
        assert "export" not in words
        await pilot.press("escape")
        run.end()


async def test_cancelling_keeps_what_was_recorded_until_then(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await begun(pilot)
        run.reaches(0.5)
        await until(pilot, lambda: pilot.app.screen.query_one(TensorLog).matching)
        seen = pilot.app.screen.query_one(TensorLog).matching

        await pilot.press("x")
        await drawn(pilot)

        assert run.cancelled
        assert pilot.app.screen.query_one(TensorLog).matching == seen
        assert "cancelled" in told(pilot, "#headline")
        assert [toast.message for toast in pilot.app._notifications] == ["cancelled: what was recorded is kept"]
        await pilot.press("escape")  # without a question
        await on(pilot, StartScreen)


async def test_after_a_run_the_plan_is_made_anew_and_another_worker_waits(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await until(pilot, lambda: FakeStandby.made)
        (await begun(pilot)).end()
        await drawn(pilot)
        assert len(FakeStandby.made) == 1

        await pilot.press("escape")

        await until(pilot, lambda: len(FakeStandby.made) == 2)
        assert pilot.app.standby is FakeStandby.made[1]
        assert not FakeStandby.made[1].closed


# A race


@pytest.mark.slow
async def test_three_run_in_turn_and_each_panel_tells_how_far_it_is(task: LoadTask) -> None:
    async with at_start().run_test(size=(160, 24)) as pilot:
        first = await race_begun(pilot)
        await until(pilot, lambda: titles(pilot) == ["mmap-assign waits", "meta-assign waits", "sharded waits"])
        assert "0 of 3 have run." in told(pilot, "#headline")

        first.end()
        second = await session(pilot, 2)
        second.reaches(0.5)
        await until(pilot, lambda: "%" in titles(pilot)[1])
        assert titles(pilot)[0].startswith("mmap-assign ✓ 2.5")
        assert titles(pilot)[2] == "sharded waits"
        assert "1 of 3 have run: so far mmap-assign took least heap" in told(pilot, "#headline")
        assert len(FakeSession.begun) == 2

        second.end()
        (await session(pilot, 3)).end()
        await drawn(pilot)
        assert [title.split()[1] for title in titles(pilot)] == ["✓"] * 3
        assert told(pilot, "#headline").startswith("mmap-assign took least heap")
        assert [run.spec.strategy for run in FakeSession.begun] == ["mmap-assign", "meta-assign", "sharded"]


@pytest.mark.slow
async def test_only_a_run_that_has_ended_can_be_exported_and_only_one_that_has_begun_be_opened(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        first = await race_begun(pilot)
        await pilot.press("enter", "e")
        assert isinstance(pilot.app.screen, RaceScreen)
        first.end()
        second = await session(pilot, 2)
        await until(pilot, lambda: watch(pilot).views[0].ended and "export" in offered(pilot))

        await pilot.press("right")
        await until(pilot, lambda: "export" not in offered(pilot))
        await pilot.press("e")
        assert isinstance(pilot.app.screen, RaceScreen)

        second.reaches(0.5)
        await until(pilot, lambda: watch(pilot).views[1].load_ns)
        await pilot.press("enter")
        await on(pilot, RunScreen)
        await until(pilot, lambda: "meta-assign · " in told(pilot, "#headline"))
        pilot.app.runs.cancel()


@pytest.mark.slow
async def test_cancelling_a_run_of_a_race_that_was_opened_ends_the_race(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        first = await race_begun(pilot)
        first.reaches(0.5)
        await until(pilot, lambda: watch(pilot).views[0].facts)
        await pilot.press("enter")
        await on(pilot, RunScreen)
        await until(pilot, lambda: "cancel" in offered(pilot))

        await pilot.press("x")
        await drawn(pilot)

        assert first.cancelled
        await pilot.press("escape")
        await on(pilot, RaceScreen)
        await until(pilot, lambda: [title.split()[1] for title in titles(pilot)] == ["✗", "not", "not"])
        assert len(FakeSession.begun) == 1


@pytest.mark.parametrize("key", ["y", pytest.param("click", marks=pytest.mark.slow)])
async def test_leaving_a_race_under_way_cancels_it_once_the_user_says_so(task: LoadTask, key: str) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await race_begun(pilot)
        await pilot.press("escape")
        await on(pilot, ConfirmScreen)
        assert pilot.app.focused.id == "no"
        await pilot.press("escape")
        await on(pilot, RaceScreen)
        assert not run.cancelled

        await pilot.press("escape")
        await on(pilot, ConfirmScreen)
        await (pilot.click("#yes") if key == "click" else pilot.press(key))

        await on(pilot, StartScreen)
        assert run.cancelled
        await until(pilot, lambda: not runs_under_way())
        assert len(FakeSession.begun) == 1


@pytest.mark.slow
async def test_quitting_during_a_race_leaves_nothing_behind(task: LoadTask) -> None:
    app = at_start()
    async with app.run_test(size=SIZE) as pilot:
        (await race_begun(pilot)).end()
        second = await session(pilot, 2)
        second.reaches(0.3)

        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)

        assert runs_under_way() == [], "quitting waits for the thread"
    assert second.cancelled
    assert [run.spec.strategy for run in FakeSession.begun] == ["mmap-assign", "meta-assign"]
    assert all(waiting.closed for waiting in FakeStandby.made[1:])
    assert (app.return_value, app.fault) == (0, None)
    with CaptureReader(second.spec.capture) as capture:
        assert capture.fact("outcome")["outcome"] == "cancelled"


@pytest.mark.slow
async def test_from_a_run_that_is_over_the_next_of_its_race_cannot_be_cancelled(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        (await race_begun(pilot)).end()
        second = await session(pilot, 2)
        await until(pilot, lambda: watch(pilot).views[0].ended)
        await pilot.press("enter")
        await drawn(pilot)
        await until(pilot, lambda: "cancel" not in offered(pilot))
        await pilot.press("x")
        assert not second.cancelled
        await pilot.press("escape")
        await on(pilot, RaceScreen)
        await until(pilot, lambda: "cancel" in offered(pilot))


async def test_a_race_behind_one_of_its_runs_takes_no_time_from_it_and_is_up_to_date_when_it_is_seen_again(
    task: LoadTask,
) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        run = await race_begun(pilot)
        run.reaches(0.3)
        race = watch(pilot)
        await until(pilot, lambda: race.views[0].load_ns and race._drawn is race.views)
        await pilot.press("enter")
        await on(pilot, RunScreen)
        await pilot.pause()
        drawn_before, done_before = race._drawn, race.views[0].done_bytes

        run.reaches(0.6)
        await until(
            pilot, lambda: watch(pilot).views[0].done_bytes > done_before and watch(pilot)._drawn is watch(pilot).views
        )
        await until(pilot, lambda: race.views[0].done_bytes > done_before)
        await pilot.pause(0.1)
        assert race._drawn is drawn_before

        await pilot.press("escape")
        await on(pilot, RaceScreen)
        await until(pilot, lambda: race._drawn is race.views)
        run.end()
