"""The strategies of a plan as lines to choose from and to mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from meminspect.renderables.plan_table import PlanTable
from meminspect.tui.sizes import LEAST_WIDTH

if TYPE_CHECKING:
    from textual.binding import BindingType
    from textual.events import Click

    from meminspect.analysis.plan import Plan, PlanRow

__all__ = ["StrategyList"]

_MARK: Final = "◉ "
_NO_MARK: Final = "  "


class StrategyList(OptionList):
    """One strategy a line, its peak to scale; `marked` are the ids that are marked, in that order."""

    BINDINGS: ClassVar[list[BindingType]] = [("enter", "select", "run")]

    def __init__(self, *, id: str) -> None:  # noqa: A002 - as all widgets call it
        super().__init__(id=id, compact=True)
        self.marked: list[str] = []
        self._plan: Plan | None = None
        self.table: PlanTable | None = None  # what header, bills and legend are drawn by

    @property
    def row(self) -> PlanRow | None:
        """The strategy under the cursor."""
        return None if self._plan is None or self.highlighted is None else self._plan.rows[self.highlighted]

    def show(self, plan: Plan, width: int) -> PlanTable:
        """Draw a plan in so many columns, the recommended strategy under the cursor at first; returns `table`."""
        chosen = self.row.strategy.id if self.row is not None else plan.recommendation.strategy_id
        self._plan = plan
        width = max(width, LEAST_WIDTH) - len(_MARK)  # with less there is nothing to be seen of it
        self.table = table = PlanTable(plan, width=width, ascii_only=False)
        self.set_options([Option(self._line(row, table), id=row.strategy.id) for row in plan.rows])
        self.styles.max_height = len(plan.rows)
        self.highlighted = _place(plan, chosen)
        return table

    def header(self, table: PlanTable) -> Text:
        """The titles over the lines."""
        return Text(_NO_MARK) + table.header()

    def toggle(self, row: PlanRow) -> None:
        """Mark a strategy, or not any more."""
        id_ = row.strategy.id
        if id_ in self.marked:
            self.marked.remove(id_)
        else:
            self.marked.append(id_)
        if self.table is not None:
            self.replace_option_prompt(id_, self._line(row, self.table))

    def _line(self, row: PlanRow, table: PlanTable) -> Text:
        line = Text(_MARK if row.strategy.id in self.marked else _NO_MARK) + table.row(row)
        line.truncate(table.width + len(_MARK), overflow="ellipsis")  # of a long reason: it is told below in full
        return line

    async def _on_click(self, event: Click) -> None:
        """One click goes to a line, a second runs it: no load begins by mistake."""
        line = event.style.meta.get("option")
        if line is not None and event.chain < 2:
            self.highlighted = line
            event.prevent_default()


def _place(plan: Plan, strategy_id: str | None) -> int:
    """Where a strategy is in the list; without one, where the first is that can be run at all."""
    for index, row in enumerate(plan.rows):
        if row.strategy.id == strategy_id:
            return index
    return next((index for index, row in enumerate(plan.rows) if row.why_not is None), 0)
