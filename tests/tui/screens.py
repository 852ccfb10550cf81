"""Driving the app in tests: waiting for what is to come, and an engine that runs nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import captures
from captures import Live, Story

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies.task import task_for
from meminspect.tui.screens.start import StartScreen
from meminspect.tui.screens.watch import WatchScreen
from meminspect.tui.widgets.strategy_list import StrategyList

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

    from meminspect.engine.spec import RunSpec
    from meminspect.strategies import LoadTask

CHECKPOINT = Path("llama-1.3b")
DEADLINE_S = 20
TO_LIMIT = ("tab",) * 7  # from the first of the options to the memory limit


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Let the app go on until something is so, and has been drawn."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"the moment never came on {pilot.app.screen}"
        await pilot.pause(0.01)
    await pilot.pause()


async def planned(pilot: Pilot[Any]) -> None:
    """The start screen has its plan."""
    await until(pilot, lambda: isinstance(pilot.app.screen, StartScreen) and not pilot.app.screen.has_class("-unread"))


async def drawn(pilot: Pilot[Any]) -> None:
    """The screen of one or several runs shows how they ended."""
    await until(pilot, lambda: isinstance(pilot.app.screen, WatchScreen) and bool(pilot.app.screen.views))
    screen = watch(pilot)
    await until(pilot, lambda: all(view.ended for view in screen.views) and screen._drawn is screen.views)


async def on(pilot: Pilot[Any], kind: type) -> None:
    """A screen of this kind is the one in front."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))


async def session(pilot: Pilot[Any], count: int = 1) -> FakeSession:
    """So many sessions have begun; the last of them."""
    await until(pilot, lambda: len(FakeSession.begun) == count)
    return FakeSession.begun[-1]


def listed(pilot: Pilot[Any]) -> list[str]:
    """The ids of the strategies, in the order of the start screen."""
    return [str(option.id) for option in pilot.app.screen.query_one(StrategyList).options]


def told(pilot: Pilot[Any], selector: str = "Static") -> str:
    """The words of the screen in front: of all its texts, or of some."""
    return "\n".join(str(static.render()) for static in pilot.app.screen.query(selector))


def offered(pilot: Pilot[Any]) -> set[str]:
    """The words of the keys that work now."""
    return {active.binding.description for active in pilot.app.screen.active_bindings.values() if active.enabled}


def lines(pilot: Pilot[Any]) -> list[str]:
    """What the terminal shows, dialogs and all."""
    strips = pilot.app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


def towards(pilot: Pilot[Any], strategy: str) -> tuple[str, ...]:
    """The keys that lead to a strategy of the start screen's list."""
    return "home", *["down"] * listed(pilot).index(strategy)


async def settled(pilot: Pilot[Any]) -> None:
    """Nothing moves any more: what a layout brings about may bring about another."""
    pictures: list[str] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(pictures) < 3 or len(set(pictures[-3:])) > 1:
        assert time.monotonic() < deadline, "it moves and moves"
        await pilot.pause(0.05)
        pictures.append(pilot.app.export_screenshot())


def watch(pilot: Pilot[Any]) -> WatchScreen:
    """The screen, which follows captures."""
    assert isinstance(pilot.app.screen, WatchScreen)
    return pilot.app.screen


class FakeStandby:
    """A worker that waits, without one."""

    made: ClassVar[list[FakeStandby]] = []

    def __init__(self, python: str) -> None:
        self.closed = False
        self.python = python
        FakeStandby.made.append(self)

    def close(self) -> None:
        """As `Standby.close`."""
        self.closed = True


class FakeSession:
    """A run that lasts until a test calls `end` or the app cancels it; only then is there a capture.

    One that has begun with `reaches` has its capture from then on, and it grows.

    Attributes:
        begun: all that were made since the test began.
    """

    begun: ClassVar[list[FakeSession]] = []

    def __init__(self, spec: RunSpec, standby: FakeStandby | None = None) -> None:
        self.spec, self.standby = spec, standby
        self.cancelled = False
        self.failure: Exception | None = None
        self._over = threading.Event()
        self._live: Live | None = None
        FakeSession.begun.append(self)

    def reaches(self, share: float) -> Live:
        """Have done so much of the load, from 0 to 1."""
        if self._live is None:
            self._live = Live(self.spec.capture, self._task, Story(self.spec.strategy))
        self._live.reaches(share)
        return self._live

    @property
    def _task(self) -> LoadTask:
        return task_for(read_checkpoint(self.spec.checkpoint), self.spec.options)

    def end(self) -> None:
        """Come to the end."""
        self._over.set()

    def cancel(self) -> None:
        """As `Session.cancel`."""
        self.cancelled = True
        self._over.set()

    def wait(self) -> None:
        """As `Session.wait`."""
        self._over.wait(DEADLINE_S)
        if self.failure is not None:
            raise self.failure
        if self._live is not None:
            self._live.ends("cancelled" if self.cancelled else "completed")
            return
        outcome = ("cancelled", 0.3) if self.cancelled else ("completed", 1.0)
        captures.write(
            self.spec.capture,
            self._task,
            Story(self.spec.strategy, outcome[1], outcome[0], "cancelled" * self.cancelled),
        )


class Writing:
    """Stands for `Runs`: something still writes, and will as long as the test takes."""

    def __init__(self, *strategies: str) -> None:
        self.specs = [_Spec(strategy) for strategy in strategies]
        self.errors: dict[object, Exception] = {}
        self.cancelled = False

    def is_alive(self) -> bool:
        """As a thread's."""
        return not self.cancelled

    def cancel(self) -> None:
        """As `Runs.cancel`."""
        self.cancelled = True


class _Spec:
    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
