"""The app itself: colours, keys that work everywhere, what is under way, and where faults go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, ClassVar

from rich.theme import Theme
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType

from meminspect.errors import ExitCode, RunError
from meminspect.renderables.palette import STYLES
from meminspect.tui.colours import DARK, LIGHT
from meminspect.tui.faults import fault_of, log_fault
from meminspect.tui.keys import our_keys
from meminspect.tui.sizes import HEIGHTS, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from textual.dom import DOMNode
    from textual.screen import Screen

    from meminspect.architectures.own import OwnModel
    from meminspect.engine.session import Standby
    from meminspect.engine.spec import RunSpec
    from meminspect.errors import SeveralCheckpointsError
    from meminspect.sampling.interpreter import Interpreter
    from meminspect.strategies import LoadOptions
    from meminspect.tui.faults import Fault
    from meminspect.tui.runs import Runs

__all__ = ["MeminspectApp"]

_PATIENCE_S = 5.0  # for a cancelled run to close its capture; its processes end with us in any case


class MeminspectApp(App[int]):
    """`meminspect --ckpt PATH`, and `meminspect view CAPTURE…`.

    Args:
        ckpt: the checkpoint to begin with; without it, one is picked.
        captures: captures to show instead.
        folder: where new captures go; the user's data folder unless given.
        python: what runs load in, unless the user chooses another; None for our own interpreter.
        model: the user's own model that they load into; None for what a checkpoint is recognised as.
        trust_pickle: whether they trust pickles.
    """

    TITLE = "meminspect"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("d", "toggle_dark", "dark or light", show=False),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", "quit", show=False, priority=True),  # in dialogs and fields as well
    ]

    def __init__(
        self,
        ckpt: Path | None = None,
        captures: Sequence[Path] = (),
        folder: Path | None = None,
        *,
        python: Interpreter | None = None,
        model: OwnModel | None = None,
        trust_pickle: bool = False,
    ) -> None:
        # Textual makes greys of colours for NO_COLOR, unless it leaves them to the terminal: then it leaves them out.
        super().__init__(ansi_color="NO_COLOR" in os.environ)
        self.console.push_theme(Theme(STYLES))
        self.ansi_theme_dark, self.ansi_theme_light = DARK, LIGHT
        self.folder = folder
        self.runs: Runs | None = None
        self.standby: Standby | None = None
        self._told_why_no_standby = False
        self.fault: Fault | None = None  # what ended the app, for whoever started it
        self._ckpt = ckpt
        self._captures = captures
        self._python = python
        self._model = model
        self._trust_pickle = trust_pickle

    def on_mount(self) -> None:
        """Show the first screen, and end in order when somebody ends us."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError):  # signals come to the main thread alone; an app in another has none
            loop.add_signal_handler(signal.SIGTERM, lambda: self.run_worker(self.action_quit()))
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self._captures:
            self.open_captures(self._captures)
        elif self._ckpt is not None:
            self.open_checkpoint(self._ckpt)
        else:
            self.open_picker()

    # As `Owner` has them. Screens are imported when they are shown: the first frame pays for no other one.

    def open_picker(self, several: SeveralCheckpointsError | None = None) -> None:
        """Choose a checkpoint, or one of several in a folder, in place of the screen there is."""
        from meminspect.tui.screens.pick import PickScreen

        self._replace(PickScreen(several))

    def open_checkpoint(self, ckpt: Path) -> None:
        """Show a checkpoint and its plan, in place of the screen there is."""
        from meminspect.tui.screens.start import StartScreen

        self._replace(StartScreen(ckpt))

    def first_options(self) -> LoadOptions:
        """How to load, as long as nobody has chosen."""
        from meminspect.sampling.interpreter import OURS
        from meminspect.strategies import LoadOptions

        return LoadOptions(trust_pickle=self._trust_pickle, interpreter=self._python or OURS, model=self._model)

    def open_captures(self, captures: Sequence[Path], runs: Runs | None = None) -> None:
        """Show one run, or several beside each other, over the screen there is."""
        from meminspect.tui.screens.race import RaceScreen
        from meminspect.tui.screens.run import RunScreen

        self.push_screen(RunScreen(captures[0], runs) if len(captures) == 1 else RaceScreen(captures, runs))

    def open_history(self) -> None:
        """List earlier captures, over the screen there is."""
        from meminspect.tui.screens.history import HistoryScreen

        self.push_screen(HistoryScreen())

    def begin(self, specs: Sequence[RunSpec]) -> None:
        """Run these in turn, and show them."""
        from meminspect.tui.runs import Runs

        self.runs, self.standby = Runs(specs, self.standby, self.runs), None
        self.runs.start()
        self.open_captures([spec.capture for spec in specs], self.runs)

    def stand_by(self, python: str) -> None:
        """Let a worker import torch while the user reads, for the run that may come."""
        from meminspect.engine.session import Standby

        if self.standby is None:
            try:
                self.standby = Standby(python)
            except RunError:
                told, self._told_why_no_standby = self._told_why_no_standby, True
                if not told:  # and not again with every plan: a run says it too
                    raise

    def _replace(self, screen: Screen[None]) -> None:
        if len(self.screen_stack) > 1:
            self.switch_screen(screen)
        else:  # below is only the blank that Textual begins with
            self.push_screen(screen)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers: every key of this screen by its words, then Textual's own."""
        for active in our_keys(screen):
            key = active.binding
            words = f"{key.description[0].upper()}{key.description[1:]}"
            yield SystemCommand(words, f"key {self.get_key_display(key)}", self._runner(active.node, key.action))
        for command in super().get_system_commands(screen):
            if command.title in ("Theme", "Screenshot"):
                yield command

    def _runner(self, node: DOMNode, action: str) -> Callable[[], None]:
        def run() -> None:
            self.call_later(self.run_action, action, node)

        return run

    def action_help(self) -> None:
        """Show what this screen's keys do."""
        from meminspect.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_toggle_dark(self) -> None:
        """Change between dark and light."""
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    async def action_quit(self) -> None:
        """End everything that was started, then the app."""
        await asyncio.to_thread(self._end_processes)
        self.exit(int(ExitCode.OK))

    def _hang_up(self) -> None:
        """The terminal is gone: nothing is left to put in order but what we have started.

        Textual would wait for ever to write its farewell to nobody.
        """
        self._end_processes()
        os._exit(128 + signal.SIGHUP)

    def _end_processes(self) -> None:
        if self.runs is not None:
            self.runs.cancel()
            self.runs.join(_PATIENCE_S)
        self.close_standby()

    def close_standby(self) -> None:
        """Give back the memory of a worker that waits, if there is one."""
        if self.standby is not None:
            self.standby.close()
            self.standby = None

    def report(self, error: BaseException, doing: str) -> None:
        """Say what went wrong; what is our own fault goes to the log as well.

        Args:
            error: what was raised, in whatever thread.
            doing: what was being done, as it follows 'while'.
        """
        from meminspect.tui.screens.message import MessageScreen

        self.push_screen(MessageScreen(fault_of(error, doing)))

    def _handle_exception(self, error: Exception) -> None:
        """Textual would print a traceback: it goes to the log, and one line to the user once the screen is gone."""
        self.fault = log_fault(error, "drawing the screen")
        super()._handle_exception(error)
        self._exit_renderables.clear()
