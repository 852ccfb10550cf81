"""The picture of a plan: one strategy a row, its peak to scale against what there is, and what the peak is made of."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.text import Text

from meminspect.analysis.verdict import VERDICT_WORDS, unreclaimable_bytes, vram_bytes
from meminspect.renderables import bars
from meminspect.renderables.texts import safe
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.analysis.plan import Plan, PlanRow
    from meminspect.theory.ledger import Theory

__all__ = ["PlanTable"]

_GAP = "  "
_SIZE_WIDTH = 11  # 1023.99 GiB
_VERDICT_WIDTH = max(map(len, VERDICT_WORDS.values()))
_LEAST_BAR = 8  # columns; on a narrower terminal the numbers have to do
_MOST_BAR = 60
_THREE_FIGURES = (
    "Peak vram is what tensors take (allocated). What must fit, and is drawn, is what torch's allocator takes of the "
    "driver for them (reserved). The driver counts a context of some hundred MiB besides, which no theory knows."
)
_FIGURES_OF = {
    "xpu": f"{_THREE_FIGURES} By its source, torch's allocator for XPU has CUDA's rules, which the model is of.",
    "mps": "Peak vram is what tensors take. What torch's allocator for Metal reserves for them is not available: only "
    "Metal says how it rounds. It is more than what is drawn.",
}
_MARK, _NO_MARK = "★ ", "  "
_POOLS = {
    "heap": "heap_bytes", "file": "file_bytes", "pinned": "pinned_bytes", "vram": "vram_allocated_bytes",
}  # fmt: skip


class PlanTable:
    """Lines of a plan, laid out for one width.

    Args:
        plan: what to draw.
        width: columns of the terminal. Where the figures find no room, the bills still have them.
        ascii_only: draw bars with ASCII characters.
    """

    def __init__(self, plan: Plan, *, width: int, ascii_only: bool) -> None:
        self._plan = plan
        self.width = width
        self._glyphs = bars.ASCII if ascii_only else bars.UNICODE
        self._theories = [row.theory for row in plan.rows if row.theory is not None]
        self._on_device = any(vram_bytes(theory.peak) for theory in self._theories)
        self._of_device = self._on_device and not plan.shared  # what the bars are of
        self._ceiling_bytes = plan.vram_bytes if self._of_device else plan.ram_bytes
        longest = max((self._drawn(theory)[1] for theory in self._theories), default=0)
        self._axis_bytes = bars.axis_bytes_for(self._ceiling_bytes, longest)
        self._name_width = len(_MARK) + max((len(row.strategy.id) for row in plan.rows), default=0)
        # A pool that nothing uses has no column.
        pools = [pool for pool in _POOLS if any(_peak(theory, pool) for theory in self._theories)]
        if self._fixed_width(pools) > width:
            pools = []
        self._pools = pools
        bar_width = min(width - self._fixed_width(pools) - len(_GAP), _MOST_BAR)
        self._bar_width = bar_width if bar_width >= _LEAST_BAR and self._theories else 0

    def _fixed_width(self, pools: Sequence[str]) -> int:
        return self._name_width + len(pools) * (len(_GAP) + _SIZE_WIDTH) + len(_GAP) + _VERDICT_WIDTH

    def lines(self) -> Iterator[Text]:
        """A header, two lines for each strategy, and the legend of the bars."""
        yield self.header()
        for row in self._plan.rows:
            yield self.row(row)
            if row.theory is not None:
                yield self.bill(row.theory)
        if self._bar_width:
            yield self.legend()
        if self._on_device:
            yield Text(
                "\n".join(textwrap.wrap(_FIGURES_OF.get(self._plan.device, _THREE_FIGURES), self.width)), style="quiet"
            )

    def header(self) -> Text:
        """Titles of the columns, and the size of the ceiling over its mark."""
        line = safe(f"{_NO_MARK}strategy".ljust(self._name_width), "label")
        for pool in self._pools:
            line.append(_GAP + f"peak {pool}".rjust(_SIZE_WIDTH), "label")
        column = bars.ceiling_column(self._ceiling_bytes, self._axis_bytes, self._bar_width)
        if self._bar_width and column is not None:
            size = self._size(self._ceiling_bytes)
            zero = "0" if column > len(size) else ""  # where there is room for both
            line.append(f"{_GAP}{zero}{size.rjust(column + 1 - len(zero))}", "label")
        return line

    def _name(self, row: PlanRow) -> str:
        mark = _MARK if self._is_recommended(row) else _NO_MARK
        return f"{mark}{row.strategy.id}".ljust(self._name_width)

    def _is_recommended(self, row: PlanRow) -> bool:
        return row.strategy.id == self._plan.recommendation.strategy_id

    def row(self, row: PlanRow) -> Text:
        """One strategy in one line."""
        if row.theory is None:
            return safe(f"{self._name(row)}{_GAP}not available: {row.why_not}", "quiet")
        theory, line = row.theory, Text()
        line.append(self._name(row), "answer" if self._is_recommended(row) else "")
        for pool in self._pools:
            nbytes = _peak(theory, pool)
            line.append(_GAP + self._size(nbytes).rjust(_SIZE_WIDTH), pool if nbytes else "quiet")
        if self._bar_width:
            line.append(_GAP)
            for run in self._bar(theory):
                line.append(run.text, "vram" if self._of_device and run.part == "heap" else run.part)
        if row.verdict is not None:
            line.append(_GAP)
            line.append(VERDICT_WORDS[row.verdict], row.verdict)
        return line

    def _bar(self, theory: Theory) -> list[bars.Run]:
        unreclaimable, total = self._drawn(theory)
        return bars.memory_bar(
            unreclaimable,
            total,
            ceiling_bytes=self._ceiling_bytes,
            axis_bytes=self._axis_bytes,
            width=self._bar_width,
            glyphs=self._glyphs,
        )

    def _drawn(self, theory: Theory) -> tuple[int, int]:
        """What a bar is of, the device, the host or both: what cannot be reclaimed, and that with what can."""
        on_device = vram_bytes(theory.peak)
        if self._of_device:
            return on_device, on_device
        unreclaimable = unreclaimable_bytes(theory.peak) + on_device
        return unreclaimable, max(theory.peak_rss_bytes + on_device, unreclaimable)

    def bill(self, theory: Theory) -> Text:
        """What is live when all host pools together are at their highest."""
        parts = [
            f"{self._size(line.nbytes)} {line.item}{'' if line.pool == 'heap' else f' ({line.pool})'}"
            for line in theory.bill
        ]
        text = f"= {' + '.join(parts) or 'nothing'}"
        indent = " " * (len(_MARK) + len(_GAP))
        lines = textwrap.wrap(text, self.width, initial_indent=indent, subsequent_indent=indent + _GAP)
        return Text("\n".join(lines), style="quiet")

    def legend(self) -> Text:
        """What the bars' marks mean; empty where there are no bars."""
        line = Text(_NO_MARK)
        if not self._bar_width:
            return line
        if self._of_device:
            line.append(self._glyphs.full, "vram").append(
                " on the device" if self._plan.device == "mps" else " reserved on the device", "quiet"
            )
        else:
            line.append(self._glyphs.full, "heap").append(" cannot be reclaimed  ", "quiet")
            line.append(self._glyphs.file, "file").append(" can be reclaimed", "quiet")
        if self._ceiling_bytes:
            words = " free device memory" if self._of_device else " usable memory"
            line.append(_GAP).append(self._glyphs.ceiling, "ceiling").append(words, "quiet")
        return line

    def _size(self, nbytes: int | None) -> str:
        return format_bytes(nbytes)


def _peak(theory: Theory, pool: str) -> int:
    nbytes: int | None = getattr(theory.peak, _POOLS[pool])
    return nbytes or 0
