"""Several runs beside each other, on the same axes. A race, and a comparison of earlier captures, are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Grid
from textual.widgets import Footer, Static

from meminspect.analysis.repeats import comparison as in_rounds
from meminspect.analysis.repeats import repeated
from meminspect.analysis.words import comparison, names
from meminspect.renderables.headline import provenance, title
from meminspect.renderables.results import result_table
from meminspect.renderables.texts import safe
from meminspect.tui.screens.watch import WatchScreen
from meminspect.tui.widgets.run_chart import RunChart, scale_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.text import Text
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Click

    from meminspect.analysis.follow import RunView
    from meminspect.tui.runs import Runs

__all__ = ["RaceScreen"]


class _Panel(RunChart):
    """One run's picture in a frame that tells its name; opened by enter or a click."""

    can_focus = True


class RaceScreen(WatchScreen):
    """A panel a run, and a table underneath.

    Args:
        captures: two to four captures.
        runs: what writes them, in turn; None for earlier runs.
    """

    CSS_PATH = "race.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("enter", "open", "open"),
        ("x", "cancel", "cancel"),
        ("right", "app.focus_next", "next"),
        ("left", "app.focus_previous", "previous"),
        ("e", "export", "export"),
        ("escape", "leave", "back"),
    ]

    def __init__(self, captures: Sequence[Path], runs: Runs | None = None) -> None:
        super().__init__(captures, runs)
        self._strategies = [spec.strategy for spec in runs.specs] if runs is not None else ["…"] * len(captures)

    def compose(self) -> ComposeResult:
        """From the answer down to the table."""
        yield self.too_small()
        yield Static("", id="headline")
        with Grid(id="panels", classes=f"-of-{len(self.views)}"):
            for index in range(len(self.views)):
                yield _Panel(id=f"panel-{index}", alone=False)
        yield Static("", id="table")
        yield Footer(show_command_palette=False)

    def draw(self, views: tuple[RunView, ...]) -> None:
        """Show the runs as they are now."""
        scale = scale_for(views)
        named = zip(views, self._strategies, strict=True)
        documents = [view.document(strategy, waits=self.running) for view, strategy in named]
        for index, (view, name) in enumerate(zip(views, names(documents), strict=True)):
            panel = self.query_one(f"#panel-{index}", _Panel)
            panel.show(view, scale)
            panel.border_title = title(view, name, waits=self.running)
            if self._runs is None:
                panel.border_subtitle = provenance(view)
        self.query_one("#table", Static).update(result_table(documents))
        self.query_one("#headline", Static).update(self._answer(views))

    def _answer(self, views: tuple[RunView, ...]) -> Text:
        results = [view.result for view in views if view.result is not None]
        rounds = in_rounds(results) if repeated(results) else []
        words = "; ".join(rounds) or comparison(results)
        if words and len({(view.facts.get("checkpoint") or {}).get("path") for view in views if view.facts}) > 1:
            words += "; they loaded different checkpoints"
        ended = sum(view.ended for view in views)
        if ended < len(views):
            words = f"{ended} of {len(views)} have run" + (f": so far {words}" if words else "")
        return safe(f"{words}." if words else "none of them came to its end.", "answer" if words else "trouble")

    @property
    def _focused(self) -> RunView:
        index = next((index for index in range(len(self.views)) if self.query_one(f"#panel-{index}").has_focus), 0)
        return self.views[index]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What has not begun cannot be opened, nor what has not ended be exported."""
        if action == "export":
            return self.is_mounted and self._focused.ended
        return super().check_action(action, parameters)

    def on_click(self, event: Click) -> None:
        """A second click on a panel opens it."""
        if isinstance(event.widget, _Panel) and event.chain == 2:
            self.action_open()

    def action_open(self) -> None:
        """Show one run alone."""
        if self._focused.facts:
            self.owner.open_captures([self._focused.capture], self._runs)

    def action_export(self) -> None:
        """Write one run, or this screen, into a file."""
        from meminspect.tui.screens.export import ExportScreen

        self.app.push_screen(ExportScreen(self._focused, self))
