"""Which test presses which key, and what such tests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from screens import CHECKPOINT, FakeSession, until

from meminspect.tui.app import MeminspectApp

if TYPE_CHECKING:
    from textual.pilot import Pilot


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
