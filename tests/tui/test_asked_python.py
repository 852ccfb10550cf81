"""Another Python among the options: it is asked what it is while the dialog goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from screens import on, planned, told, until
from test_places import at_start
from textual.widgets import Input

from meminspect.errors import UsageError
from meminspect.sampling.interpreter import Interpreter
from meminspect.tui.screens.options import OptionsScreen
from meminspect.tui.screens.start import StartScreen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Interpreters that answer once they are let to."""
    answers = threading.Event()

    def slow(name: str) -> Interpreter:
        answers.wait(20)
        if name == "/broken":
            raise UsageError("it is broken", "name another")
        return Interpreter(name, "3.11.0", {"torch": "2.13.0", "safetensors": "0.8.0"})

    monkeypatch.setattr("meminspect.tui.screens.options.open_interpreter", slow)
    yield answers
    answers.set()


async def asked(pilot: Pilot[Any], name: str) -> None:
    await planned(pilot)
    await pilot.press("o")
    await on(pilot, OptionsScreen)
    pilot.app.screen.query_one("#python", Input).value = name
    await pilot.press("ctrl+s")
    await until(pilot, lambda: f"asking {name} what it is" in told(pilot, "#error"))


async def test_the_dialog_can_be_used_and_left_meanwhile(task: LoadTask, answering: threading.Event) -> None:
    async with at_start().run_test() as pilot:
        await asked(pilot, "/slow")
        pilot.app.screen.query_one("#limit", Input).focus()
        await pilot.press("6", "x")
        await until(pilot, lambda: "memory limit: '6x' is not a size" in told(pilot, "#error"))
        await pilot.press("escape")
        await on(pilot, StartScreen)
        answering.set()
        await pilot.pause()
        assert isinstance(pilot.app.screen, StartScreen)


async def test_an_answer_is_taken_and_a_refusal_told(task: LoadTask, answering: threading.Event) -> None:
    async with at_start().run_test() as pilot:
        await asked(pilot, "/broken")
        answering.set()
        await until(pilot, lambda: "it is broken: name another" in told(pilot, "#error"))
        pilot.app.screen.query_one("#python", Input).value = "/good"
        await pilot.press("ctrl+s")
        await on(pilot, StartScreen)
        await until(pilot, lambda: "(/good)" in told(pilot, "#details"))


async def test_whoever_names_another_has_not_asked_for_the_first(task: LoadTask, answering: threading.Event) -> None:
    async with at_start().run_test() as pilot:
        await asked(pilot, "/broken")
        pilot.app.screen.query_one("#python", Input).value = "/good"
        answering.set()
        await pilot.pause(0.2)
        assert isinstance(pilot.app.screen, OptionsScreen)
        assert "broken" not in told(pilot, "#error")
