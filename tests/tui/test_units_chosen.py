"""Sizes in decimal units, chosen among the options: on every screen, its axes and its table included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import captures
from captures import Story
from screens import drawn, lines, on, planned, settled, told, until
from test_places import FOLDER, at_start
from textual.widgets import DataTable, Select

from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.options import OptionsScreen
from meminspect.tui.screens.run import RunScreen

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask


async def in_decimal(pilot: Pilot[Any]) -> str:
    """What the terminal shows, which is to have sizes in decimal units and no others."""
    await settled(pilot)
    shown = "\n".join(lines(pilot))
    assert "GB" in shown
    assert "iB" not in shown
    return shown


async def test_decimal_units_are_chosen_and_hold_for_every_screen(task: LoadTask) -> None:
    captures.write(FOLDER / "0.meminspect", task, Story("naive"))
    async with at_start().run_test(size=(120, 40)) as pilot:
        await planned(pilot)
        assert "GiB" in told(pilot)
        await pilot.press("o")
        await on(pilot, OptionsScreen)
        pilot.app.screen.query_one("#sizes", Select).value = "GB (10⁹)"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "GiB" not in told(pilot))
        await in_decimal(pilot)
        await pilot.press("h")
        await on(pilot, HistoryScreen)
        await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 1)
        await in_decimal(pilot)
        await pilot.press("enter")
        await on(pilot, RunScreen)
        await drawn(pilot)
        assert "peaked at 8.07 GB" in await in_decimal(pilot)
        assert "iB" not in pilot.app.export_screenshot()
