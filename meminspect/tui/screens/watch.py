"""What the screens of one run and of several have in common: they follow captures, at the rate of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.worker import get_current_worker

from meminspect.tui.following import Following
from meminspect.tui.screens.base import BaseScreen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.analysis.follow import RunView
    from meminspect.tui.runs import Runs

__all__ = ["WatchScreen"]

_FRAME_S: Final = 1 / 8  # enough to the eye; every frame takes its time from the load that is being measured


class WatchScreen(BaseScreen):
    """Pulls the newest views and hands them to `draw` when they have changed.

    Args:
        captures: what to follow.
        runs: what writes them; None for captures of earlier runs.
    """

    LEGEND: ClassVar = (
        ("█ solid", "heap", "heap above the baseline: cannot be taken back"),
        ("░ light", "file", "pages of mapped files: can be reclaimed and read again"),
        ("▒", "undivided", "memory, where the system does not tell heap from file"),
        ("█ dim", "heap", "reached only for a moment within that column"),
        ("▾", "answer", "the peak"),
        ("·····", "theory", "the peak that the theory predicts from the headers"),
        ("─────", "ceiling", "what this machine, or the limit, lets the process have"),
        ("▲", "ceiling", "theory or ceiling, where it is higher than the picture"),
        ("✗", "trouble", "where the run died"),
    )

    def __init__(self, captures: Sequence[Path], runs: Runs | None = None) -> None:
        super().__init__()
        self._runs = runs
        self._following = Following(captures)
        self._drawn: tuple[RunView, ...] = ()
        self._broken = False
        self._state: tuple[bool, ...] = ()  # what the keys that are offered depend on

    @property
    def views(self) -> tuple[RunView, ...]:
        """The runs as they were read last."""
        return self._following.views

    @property
    def running(self) -> bool:
        """Whether anything is under way that this screen could cancel."""
        return self._runs is not None and self._runs.is_alive()

    def on_mount(self) -> None:
        """Begin to follow."""
        self.in_background(self._follow, "reading the capture")
        self.set_interval(_FRAME_S, self._pull)

    def _follow(self) -> None:
        worker, runs = get_current_worker(), self._runs
        self._following.run(lambda: worker.is_cancelled, None if runs is None else runs.is_alive)

    def _pull(self) -> None:
        if self._hidden:  # it would take its time from the load all the same
            return
        views = self.views
        state = (self.running, *(view.ended for view in views))
        if views is not self._drawn or state != self._state:
            self._drawn = views
            self._draw_or_say(views)
        if state != self._state:  # a new footer costs more than a picture
            self._state = state
            self.refresh_bindings()
        while self._runs is not None and self._runs.errors:
            capture, error = self._runs.errors.popitem()
            self.failed(error, f"running into {capture.name}")

    @property
    def _hidden(self) -> bool:
        """Whether another screen fills the terminal; behind a dialog this one is seen."""
        stack = self.app.screen_stack
        return self in stack and any(not above.is_modal for above in stack[stack.index(self) + 1 :])

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(lambda: self._draw_or_say(self.views))  # those of then: newer ones may have been drawn

    def _draw_or_say(self, views: tuple[RunView, ...]) -> None:
        """A capture may hold anything: what cannot be drawn is told once, and ends neither the app nor a load."""
        if self._broken:
            return
        try:
            self.draw(views)
        except Exception as error:  # noqa: BLE001 - handed over, not swallowed
            self._broken = True
            self.failed(error, "drawing the capture")

    def draw(self, views: tuple[RunView, ...]) -> None:
        """Show these views."""
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is over cannot be cancelled, nor from here what is not to be seen."""
        if action == "cancel":
            return self.running and not all(view.ended for view in self.views)
        return super().check_action(action, parameters)

    def action_cancel(self) -> None:
        """End what is under way; what has been recorded stays."""
        if self._runs is not None:
            self._runs.cancel()
            self.notify("cancelled: what was recorded is kept")

    def action_leave(self) -> None:
        """Back to where we came from, after asking when something is under way."""
        below = self.app.screen_stack[-2]
        if not self.running or (isinstance(below, WatchScreen) and below.running):  # which goes on with it
            self._go()
            return
        from meminspect.tui.screens.confirm import ConfirmScreen

        def decided(answer: bool | None) -> None:
            if answer:
                self.action_cancel()
                self._go()

        self.app.push_screen(
            ConfirmScreen("A run is under way", "Cancel it? What was recorded is kept.", "cancel it", "stay"),
            decided,
        )

    def _go(self) -> None:
        if len(self.app.screen_stack) > 2:
            self.dismiss()
        else:  # `meminspect view`: there is nothing below
            self.app.exit(0)
