"""The picture of a plan: one strategy a row, its peak to scale against what there is, and what the peak is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding

from meminspect.analysis.verdict import VERDICT_WORDS, unreclaimable_bytes
from meminspect.cli import bars
from meminspect.cli.output import safe
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from meminspect.analysis.plan import Plan, PlanRow
    from meminspect.theory.ledger import Theory

__all__ = ["PlanTable"]

_GAP = 2
_SIZE_WIDTH = 11  # 1023.99 GiB
_VERDICT_WIDTH = max(map(len, VERDICT_WORDS.values()))
_LEAST_BAR = 8  # columns; on a narrower terminal the numbers have to do
_MOST_BAR = 60
_POOLS = ("heap", "file", "pinned")
_MARK, _NO_MARK = "★ ", "  "


class PlanTable:
    """Lines of a plan.

    Args:
        plan: what to draw.
        decimal: write sizes in decimal units.
    """

    def __init__(self, plan: Plan, *, decimal: bool) -> None:
        self._plan = plan
        self._decimal = decimal
        self._theories = [row.theory for row in plan.rows if row.theory is not None]
        self._name_width = len(_MARK) + max((len(row.strategy.id) for row in plan.rows), default=0)
        # A pool that nothing uses has no column.
        self._pools = [
            pool for pool in ("heap", "file", "pinned") if any(_peak(theory, pool) for theory in self._theories)
        ]

    def lines(self, width: int, *, ascii_only: bool) -> Iterator[RenderableType]:
        """All lines for a terminal of `width` columns; below that of the numbers they wrap."""
        fixed = self._name_width + len(self._pools) * (_SIZE_WIDTH + _GAP) + _VERDICT_WIDTH + 2 * _GAP
        bar_width = min(width - fixed, _MOST_BAR)
        bar_width = bar_width if bar_width >= _LEAST_BAR else 0
        glyphs = bars.ASCII if ascii_only else bars.UNICODE
        yield self._header(bar_width)
        for row in self._plan.rows:
            yield from self._row(row, bar_width, glyphs)
        if bar_width and self._theories:
            yield self._legend(glyphs)

    def _header(self, bar_width: int) -> Text:
        line = safe(f"{_NO_MARK}strategy".ljust(self._name_width), "label")
        for pool in self._pools:
            line.append(" " * _GAP + f"peak {pool}".rjust(_SIZE_WIDTH), "label")
        ceiling = self._plan.ram_bytes
        if bar_width and ceiling:
            column = bars.ceiling_column(ceiling, self._axis_bytes, bar_width) or 0
            scale = f"0{format_bytes(ceiling, decimal=self._decimal).rjust(column)}"
            line.append(" " * _GAP + scale, "label")
        return line

    def _row(self, row: PlanRow, bar_width: int, glyphs: bars.Glyphs) -> Iterator[RenderableType]:
        recommended = row.strategy.id == self._plan.recommendation.strategy_id
        name = f"{_MARK if recommended else _NO_MARK}{row.strategy.id}".ljust(self._name_width)
        if row.theory is None:
            yield safe(f"{name}{' ' * _GAP}not available: {row.why_not}", "quiet")
            return
        line = safe(name, "answer" if recommended else "")
        for pool in self._pools:
            nbytes = _peak(row.theory, pool)
            size = format_bytes(nbytes, decimal=self._decimal).rjust(_SIZE_WIDTH)
            line.append(" " * _GAP + size, pool if nbytes else "quiet")
        if bar_width:
            line.append(" " * _GAP)
            for run in self._bar(row.theory, bar_width, glyphs):
                line.append(run.text, run.part)
        if row.verdict is not None:
            line.append(" " * _GAP)
            line.append(VERDICT_WORDS[row.verdict], row.verdict)
        yield line
        yield self._bill(row.theory)

    @property
    def _axis_bytes(self) -> int:
        longest = max((theory.peak_rss_bytes for theory in self._theories), default=0)
        return bars.axis_bytes_for(self._plan.ram_bytes, longest)

    def _bar(self, theory: Theory, width: int, glyphs: bars.Glyphs) -> list[bars.Run]:
        unreclaimable = unreclaimable_bytes(theory.peak)
        return bars.memory_bar(
            unreclaimable,
            max(theory.peak_rss_bytes, unreclaimable),
            ceiling_bytes=self._plan.ram_bytes,
            axis_bytes=self._axis_bytes,
            width=width,
            glyphs=glyphs,
        )

    def _bill(self, theory: Theory) -> Padding:
        """What is live when all pools together are at their highest."""
        parts = [
            f"{format_bytes(line.nbytes, decimal=self._decimal)} {line.item}"
            + ("" if line.pool == "heap" else f" ({line.pool})")
            for line in theory.bill
        ]
        return Padding(safe(f"= {' + '.join(parts) or 'nothing'}", "quiet"), (0, 0, 0, len(_MARK) + _GAP))

    def _legend(self, glyphs: bars.Glyphs) -> Text:
        line = safe(_NO_MARK)
        line.append(glyphs.full, "heap").append(" cannot be reclaimed  ", "quiet")
        line.append(glyphs.file, "file").append(" can be reclaimed", "quiet")
        if self._plan.ram_bytes:
            line.append("  ").append(glyphs.ceiling, "ceiling").append(" usable memory", "quiet")
        return line


def _peak(theory: Theory, pool: str) -> int:
    nbytes: int | None = getattr(theory.peak, f"{pool}_bytes")
    return nbytes or 0
