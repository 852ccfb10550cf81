"""One run: how it is going, and how it went. Live and replayed are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.widgets import Footer, Input, RichLog, Static, TabbedContent, TabPane

from meminspect.analysis.device_words import device_lines
from meminspect.analysis.script_words import script_lines
from meminspect.analysis.storage_words import storage_lines
from meminspect.renderables.bill import bill_lines
from meminspect.renderables.headline import headline, starting
from meminspect.renderables.pool_chart import pool_chart
from meminspect.renderables.texts import safe
from meminspect.tui.screens.recipe import RecipeScreen, highlighted
from meminspect.tui.screens.watch import WatchScreen
from meminspect.tui.widgets.run_chart import RunChart, scale_for
from meminspect.tui.widgets.tensor_log import TensorLog

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from meminspect.analysis.follow import RunView
    from meminspect.tui.runs import Runs

__all__ = ["RunScreen"]

_MOST_OF_A_CHART: Final = 100  # columns; longer bars tell no more
_READ_IN: Final = {"tensors": "#rows", "peak": "#figures", "recipe": "#steps", "log": "#lines"}  # what has the focus
_CHART_HEIGHT: Final = 15  # of which it takes what its pools need


class RunScreen(WatchScreen):
    """The answer in words, the picture, and below it tensors, the peak's bill, the recipe and the log.

    Args:
        capture: the run's capture.
        runs: what writes it; None for an earlier run.
    """

    CSS_PATH = "run.tcss"
    AUTO_FOCUS = ""  # by what there is to read, once that is known: what takes the focus brings its tab along
    BINDINGS: ClassVar[list[BindingType]] = [
        ("x", "cancel", "cancel"),
        Binding("1", "show('tensors')", "details", key_display="1-4"),
        Binding("2", "show('peak')", "peak", show=False),
        Binding("3", "show('recipe')", "recipe", show=False),
        Binding("4", "show('log')", "log", show=False),
        ("slash", "filter", "filter"),
        ("i", "better", "better recipe"),
        ("e", "export", "export"),
        ("escape", "leave", "back"),
    ]

    def __init__(self, capture: Path, runs: Runs | None = None) -> None:
        super().__init__([capture], runs)
        self._log_lines = 0
        self._wanted = ""  # the tab that is to be shown and is not yet
        self._showed_result = self._showed_recipe = self._showed_tensors = False

    def compose(self) -> ComposeResult:
        """From the answer down to the details."""
        yield self.too_small()
        yield Static("", id="headline")
        yield Static("", id="starting")
        yield RunChart(id="chart")
        with TabbedContent(id="details"):
            with TabPane("tensors", id="tensors"):
                yield Input(placeholder="part of a tensor's name", id="filter", compact=True)
                yield TensorLog(id="rows")
            with TabPane("peak", id="peak"), VerticalScroll(id="figures"):
                yield Static("the bill of the peak comes when the run has ended", id="bill")
                yield Static("", id="pools")
            with TabPane("recipe", id="recipe"), VerticalScroll(id="steps"):
                yield Static("", id="code")
            with TabPane("log", id="log"):
                yield RichLog(id="lines", wrap=True, min_width=20, max_lines=10_000)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The filter is opened by its key."""
        self.query_one("#filter").display = False

    def draw(self, views: tuple[RunView, ...]) -> None:
        """Show the run as it is now."""
        view = views[0]
        width = self.size.width - 2
        lines = headline(view, width)
        self.query_one("#headline", Static).update(Text("\n").join(lines))
        # Not by `display`, which would show them where a terminal is too small for anything.
        self.query_one("#starting").set_class(view.load_ns is not None or view.ended, "-absent")
        if view.load_ns is None:
            self.query_one("#starting", Static).update(Text("\n").join(starting(view)))
        self.query_one(RunChart).set_class(view.load_ns is None, "-absent")
        self.query_one(RunChart).show(view, scale_for([view]))
        self.query_one(TensorLog).show(view.operations, view.load_began_ns)
        self._show_log(view)
        self._show_recipe(view)
        if view.result is not None:
            self.query_one(TensorLog).placeholder = "no tensor was touched"
            self._show_result(view.result)
        elif view.facts and not self._showed_tensors:
            self._showed_tensors = True
            if self.focused is None:
                self.query_one(TensorLog).focus(scroll_visible=False)

    def _show_log(self, view: RunView) -> None:
        log = self.query_one("#lines", RichLog)
        for line in view.log[self._log_lines :]:
            log.write(safe(line.text, "tight" if line.stream == "stderr" else ""))
        self._log_lines = len(view.log)

    def _show_recipe(self, view: RunView) -> None:
        code = view.facts.get("recipe")
        if code and not self._showed_recipe:
            self._showed_recipe = True
            self.query_one("#code", Static).update(highlighted(code))

    def _show_result(self, run: dict[str, Any]) -> None:
        if not self._showed_result:
            self._showed_result = True
            details = self.query_one(TabbedContent)
            if details.active == "tensors" and not self.query_one("#filter").display:
                details.active = self._wanted = "peak" if run["bill"] else "log" if self._log_lines else "tensors"
                # Textual shows the tab of what has the focus, also where it hears of that late.
                self.query_one(_READ_IN[self._wanted]).focus(scroll_visible=False)
        self._draw_figures()

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """What was hidden has a width only now.

        Right after the start Textual activates the first tab, which may come behind our wish for another.
        """
        if self._wanted and event.pane.id != self._wanted:
            event.tabbed_content.active = self._wanted
        else:
            self._wanted = ""
        self.call_after_refresh(self._settle, str(event.pane.id))

    def _settle(self, tab: str) -> None:
        """Tell what has become visible its size: Textual forgets to where what it replaces had been scrolled."""
        shown = self.query_one(_READ_IN[tab])
        shown.post_message(Resize(shown.size, shown.virtual_size, shown.container_size))
        self._draw_figures()

    def _draw_figures(self) -> None:
        run = self.views[0].result
        if run is None:
            return
        width = self.query_one("#figures").scrollable_content_region.width or self.size.width - 4
        bill = self.query_one("#bill", Static)
        if run["bill"]:
            lines = [safe(line, "quiet") for line in (*script_lines(run), *device_lines(run), *storage_lines(run))]
            bill.update(Text("\n").join([*bill_lines(run, width=width), *lines]))
        else:
            bill.update("the load never began: there is no peak to take apart")
        pools = pool_chart(run, width=min(width, _MOST_OF_A_CHART), height=_CHART_HEIGHT)
        self.query_one("#pools", Static).update(Text("\n").join(pools))

    @property
    def _better(self) -> dict[str, Any] | None:
        result = self.views[0].result
        return None if result is None else result.get("better")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that need a result wait for it."""
        if action == "better":
            return self._better is not None
        if action == "export":
            return self.views[0].ended
        return super().check_action(action, parameters)

    def action_show(self, tab: str) -> None:
        """Show one of the details."""
        self._wanted = tab
        self.query_one(TabbedContent).active = tab
        self.query_one(_READ_IN[tab]).focus(scroll_visible=False)

    def action_filter(self) -> None:
        """Ask which tensors to show."""
        self.action_show("tensors")
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        self.query_one(TensorLog).set_filter(event.value)

    def on_input_submitted(self) -> None:
        """Leave the field; it goes when there is nothing in it."""
        field = self.query_one("#filter", Input)
        field.display = bool(field.value)
        self.query_one(TensorLog).focus()

    def action_better(self) -> None:
        """Show the lines of what would do better."""
        better = self._better
        if better is not None:
            self.app.push_screen(RecipeScreen(better["strategy"], better["recipe"]))

    def action_export(self) -> None:
        """Write the run, or this screen, into a file."""
        from meminspect.tui.screens.export import ExportScreen

        self.app.push_screen(ExportScreen(self.views[0], self))

    def action_leave(self) -> None:
        """Close the filter first, where it is open."""
        field = self.query_one("#filter", Input)
        if field.display:
            field.value = ""
            field.display = False
            self.query_one(TensorLog).focus()
        else:
            super().action_leave()
