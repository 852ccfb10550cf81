"""What a checkpoint is, and what would happen: every strategy's predicted peak against this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import Footer, OptionList, Static

from meminspect.errors import SeveralCheckpointsError
from meminspect.renderables.texts import safe
from meminspect.tui.screens.base import BaseScreen
from meminspect.tui.sizes import MOST_PANELS
from meminspect.tui.widgets.strategy_list import StrategyList

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from meminspect.analysis.plan import PlanRow
    from meminspect.analysis.prospect import Prospect
    from meminspect.renderables.plan_table import PlanTable
    from meminspect.tui.choices import Choices

__all__ = ["StartScreen"]

_BESIDE: Final = 4  # the list's padding and its scroll bar, which has room whether it is needed or not


class StartScreen(BaseScreen):
    """The checkpoint's card and the plan. Headers are read in a thread: the screen is there before them.

    Args:
        ckpt: the checkpoint's file or folder.
    """

    CSS_PATH = "start.tcss"
    AUTO_FOCUS = ""  # the list has the focus once there is something in it
    BINDINGS: ClassVar[list[BindingType]] = [
        ("space", "mark", "mark"),
        ("r", "race", "race"),
        ("i", "recipe", "recipe"),
        ("o", "options", "options"),
        ("h", "history", "history"),
        Binding("p", "pick", "open another checkpoint", show=False),
    ]
    LEGEND: ClassVar = (
        ("█ solid", "heap", "heap: cannot be taken back"),
        ("░ light", "file", "pages of mapped files: can be reclaimed and read again"),
        ("│", "ceiling", "what this machine, or the limit, lets a process have"),
        ("┿ ▶", "ceiling", "beyond that; beyond the picture"),
        ("★", "answer", "recommended: the best verdict, then the least of what is sorted by"),
    )

    def __init__(self, ckpt: Path) -> None:
        super().__init__()
        self._ckpt = ckpt
        self._choices: Choices | None = None  # None: as nobody has chosen yet
        self._prospect: Prospect | None = None
        self._stale = False  # something has been loaded since the plan was made

    def compose(self) -> ComposeResult:
        """Card, answer, table, and what is under the cursor."""
        yield self.too_small()
        with VerticalScroll(id="card", can_focus=False):
            yield Static(safe(f"reading the headers of {self._ckpt} …"), id="subject")
        yield Static("", id="answer")
        yield Static("", id="columns")
        yield StrategyList(id="strategies")
        with VerticalScroll(id="about", can_focus=False):
            yield Static("", id="details")
            yield Static("", id="recipe")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read; what has nothing to show yet takes no room."""
        self.add_class("-unread")
        self._refresh_plan()

    def on_screen_resume(self) -> None:
        """After a run the page cache and the free memory are others."""
        if self._stale:
            self._stale = False
            self._refresh_plan()

    def on_resize(self) -> None:
        """Bars are drawn to the width that there is."""
        self.call_after_refresh(self._draw)

    @property
    def _list(self) -> StrategyList:
        return self.query_one(StrategyList)

    def _refresh_plan(self) -> None:
        self.in_background(self._read, "reading the checkpoint")

    def _read(self) -> None:
        from meminspect.analysis.prospect import prospect_of
        from meminspect.checkpoint import read_checkpoint
        from meminspect.engine.own_model import with_model_described
        from meminspect.tui.choices import Choices

        choices = self._choices or Choices(self.owner.first_options())
        self.owner.close_standby()  # a worker that waits would count as used memory
        checkpoint = read_checkpoint(self._ckpt)
        choices = choices._replace(load=with_model_described(choices.load, checkpoint))
        prospect = prospect_of(checkpoint, choices.load, limit_bytes=choices.limit_bytes, aim=choices.aim)
        first = self._prospect is None
        if self.app.call_from_thread(self._show, prospect, choices):
            if first:
                self.app.call_from_thread(self._tell_faults)
            self.app.call_from_thread(self._stand_by)

    def _tell_faults(self) -> None:
        """Which plug-ins are left out, and why."""
        from meminspect.strategies import PLUGGED_IN

        for fault in PLUGGED_IN.faults:
            self.notify(fault, severity="warning", markup=False)

    def _stand_by(self) -> None:
        if self.is_current and self._choices is not None:
            self.owner.stand_by(self._choices.load.interpreter.executable)

    def failed(self, error: BaseException, doing: str) -> None:
        """A checkpoint that cannot be read is the answer of this screen, not an accident."""
        from meminspect.tui.faults import fault_of

        if isinstance(error, SeveralCheckpointsError):
            self.owner.open_picker(error)
            return
        if self._prospect is not None:
            super().failed(error, doing)
            return
        fault = fault_of(error, doing)
        lines = [safe(fault.message, "trouble"), safe(fault.hint), safe("p picks another checkpoint", "quiet")]
        self.query_one("#subject", Static).update(Text("\n").join(lines))

    def _show(self, prospect: Prospect, choices: Choices) -> bool:
        if self._choices not in (None, choices):  # others have been chosen meanwhile: their plan is on its way
            return False
        self._prospect, self._choices = prospect, choices
        self.remove_class("-unread")
        self._draw()
        self._list.focus()
        self.refresh_bindings()
        return True

    def _draw(self) -> None:
        if self._prospect is None:
            return
        from meminspect.renderables.cards import checkpoint_card, machine_card, warnings_card

        subject, strategies = self._prospect.subject, self._list
        table = strategies.show(self._prospect.plan, self.size.width - _BESIDE)
        card = [*checkpoint_card(subject), machine_card(subject.machine)]
        self.query_one("#subject", Static).update(Text("\n").join([*card, *warnings_card(subject)]))
        self.query_one("#answer", Static).update(_answer(self._prospect))
        self.query_one("#columns", Static).update(strategies.header(table))
        self._describe(table)

    def on_option_list_option_highlighted(self) -> None:
        """Describe what is under the cursor."""
        if self._list.table is not None:
            self._describe(self._list.table)

    def _describe(self, table: PlanTable) -> None:
        from meminspect.tui.screens.recipe import highlighted

        row = self._list.row
        if row is None or self._choices is None or self._prospect is None:
            return
        lines = [safe(f"{row.strategy.id} {row.strategy.summary}.", "answer")]
        if row.why_not is not None:
            lines.append(safe(f"not available: {row.why_not}", "tight"))
        if row.theory is not None:
            lines.append(table.bill(row.theory))
        recipe = row.strategy.recipe(self._prospect.task) if row.theory is not None else ""
        self.query_one("#recipe", Static).update(highlighted(recipe))
        lines += [
            safe(f"for: {row.strategy.good}"),
            safe(f"but: {row.strategy.bad}"),
            safe(f"options: {self._choices.words()}", "quiet"),
        ]
        if table.legend().plain.strip():
            lines.append(table.legend())
        self.query_one("#details", Static).update(Text("\n").join(lines))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that need a plan wait for it."""
        if action in ("mark", "race", "recipe", "options"):
            return self._prospect is not None
        return super().check_action(action, parameters)

    def on_option_list_option_selected(self, _: OptionList.OptionSelected) -> None:
        """Run the strategy under the cursor: enter, or a double click."""
        if self._list.row is not None:
            self._ask_and_begin([self._list.row])

    def action_mark(self) -> None:
        """Take the strategy under the cursor into the race, or out of it."""
        row, marked = self._list.row, self._list.marked
        if row is None:
            return
        if row.strategy.id not in marked and row.why_not is not None:
            self.notify(f"{row.strategy.id} is not available: {row.why_not}", severity="warning", markup=False)
        elif row.strategy.id not in marked and len(marked) == MOST_PANELS:
            self.notify(f"a race has room for {MOST_PANELS}", severity="warning")
        else:
            self._list.toggle(row)

    def action_race(self) -> None:
        """Run the marked strategies in turn, beside each other."""
        if self._prospect is None:
            return
        rows = {row.strategy.id: row for row in self._prospect.plan.rows}
        chosen = [rows[id_] for id_ in self._list.marked]
        if len(chosen) < 2:
            self.notify(f"mark two to {MOST_PANELS} strategies with space first", severity="warning")
        else:
            self._ask_and_begin(chosen)

    def _ask_and_begin(self, rows: Sequence[PlanRow]) -> None:
        from meminspect.tui.screens.confirm import ConfirmScreen

        unavailable = next((row for row in rows if row.why_not is not None), None)
        if unavailable is not None:
            words = f"{unavailable.strategy.id} cannot load this: {unavailable.why_not}"
            self.notify(words, severity="warning", markup=False)
            return
        unfit = [row for row in rows if row.verdict == "does_not_fit"]
        if not unfit:
            self._begin(rows, forced=())
            return

        def decided(answer: bool | None) -> None:
            if answer:
                self._begin(rows, forced=unfit)

        names = " and ".join(row.strategy.id for row in unfit)
        self.app.push_screen(ConfirmScreen(f"{names}: does not fit", self._warning(unfit), "run all the same"), decided)

    def _warning(self, unfit: Sequence[PlanRow]) -> str:
        from meminspect.analysis.verdict import unreclaimable_bytes
        from meminspect.units import format_bytes

        assert self._prospect is not None  # noqa: S101 - there are rows
        needed = max(unreclaimable_bytes(row.theory.peak) for row in unfit if row.theory is not None)
        usable = format_bytes(self._prospect.plan.ram_bytes)
        limit_bytes = self._choices.limit_bytes if self._choices is not None else None
        if limit_bytes is not None and limit_bytes <= self._prospect.subject.machine.usable_bytes:
            end = "It will be killed at the limit, which shows where it dies and hurts nothing else."
        else:
            end = "The machine may swap or stall before the kernel kills the run."
        return f"The load is predicted to need {format_bytes(needed)} of heap, where {usable} can be had. {end}"

    def _begin(self, rows: Sequence[PlanRow], *, forced: Sequence[PlanRow]) -> None:
        from meminspect.capture.library import default_folder, new_path
        from meminspect.errors import UsageError

        assert self._prospect is not None  # noqa: S101 - there are rows
        assert self._choices is not None  # noqa: S101
        checkpoint, choices = self._prospect.task.checkpoint.path, self._choices
        try:
            folder = self.owner.folder or default_folder()
        except UsageError as error:
            self.failed(error, "starting a run")
            return
        self._stale = True
        named = [(row.strategy.id, row in forced) for row in rows]
        self.owner.begin(
            [choices.spec(checkpoint, id_, new_path(folder, checkpoint, id_), force=force) for id_, force in named]
        )

    def action_recipe(self) -> None:
        """Show the lines of PyTorch that the strategy under the cursor stands for."""
        from meminspect.analysis.explanation import explanation_of
        from meminspect.renderables.explanation import Story
        from meminspect.tui.screens.recipe import RecipeScreen

        row = self._list.row
        if row is not None and self._prospect is not None:
            task = self._prospect.task
            story = None if row.theory is None else Story(explanation_of(row.strategy, task), row.theory)
            self.app.push_screen(RecipeScreen(row.strategy.id, row.strategy.recipe(task), story))

    def action_options(self) -> None:
        """Choose device, dtypes, limit and page cache."""
        from meminspect.tui.screens.options import OptionsScreen

        def chosen(choices: Choices | None) -> None:
            if choices is not None:
                self._choices = choices
                self._refresh_plan()

        if self._choices is not None:
            self.app.push_screen(OptionsScreen(self._choices), chosen)

    def action_history(self) -> None:
        """Show earlier captures."""
        self.owner.open_history()

    def action_pick(self) -> None:
        """Choose another checkpoint."""
        self.owner.open_picker()


def _answer(prospect: Prospect) -> Text:
    strategy_id, why = prospect.plan.recommendation
    if strategy_id is None:
        return safe(f"{why[0].upper()}{why[1:]}.", "does_not_fit")
    return safe(f"★ Take {strategy_id}: {why}.", "answer")
