"""What a peak was made of, line by line, beside what theory makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text

from meminspect.renderables import bars
from meminspect.renderables.palette import STYLES
from meminspect.text import shown
from meminspect.theory.ledger import Item
from meminspect.units import uses_decimal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Run = Mapping[str, Any]

__all__ = ["Scale", "bill_lines"]

_UNKNOWN, _MINUS = "–", "−"
_GAP: Final = "  "
_THEORY: Final = "theory "
_LEAST_BAR: Final = 8  # columns; where there are fewer, the numbers have to do
_MOST_BAR: Final = 60
_NAME_LIMIT: Final = 40
_BAR_BESIDE_HINTS: Final = 16  # columns that explanations leave to the bars, or they are left out

# What is true of an item in every strategy: see `theory.ledger.Item` and `strategies.steps`.
_HINTS: Final = {
    Item.FLOOR: "what the model must occupy",
    Item.UPCAST: "built wider than need be",
    Item.QUANTISED: "of what it must occupy",
    Item.DETOUR: "until it is quantised",
    Item.DUPLICATE: "beside the model",
    Item.SHARD: "one file at a time",
    Item.BESIDE: "optimizer state and such",
    Item.STAGING: "sources of copies",
}


class Scale(NamedTuple):
    """One unit for all numbers of a picture, so that they can be compared at a glance."""

    unit_bytes: int
    name: str

    @classmethod
    def fit(cls, largest_bytes: int) -> Scale:
        """The unit, up to GiB or GB, in which the largest number is at least one."""
        base, names = (1000, ("kB", "MB", "GB")) if uses_decimal() else (1024, ("KiB", "MiB", "GiB"))
        power = next((power for power in (3, 2) if largest_bytes >= base**power), 1)
        return cls(base**power, names[power - 1])

    def text(self, nbytes: int | None) -> str:
        """A number without its unit: ``25.10``, ``−0.04``, ``–`` for None."""
        if nbytes is None:
            return _UNKNOWN
        digits = f"{abs(nbytes) / self.unit_bytes:,.2f}"
        return _MINUS + digits if nbytes < 0 and digits != "0.00" else digits


class _Line(NamedTuple):
    """One item on both sides, in bytes; None where a side knows nothing at all."""

    item: str
    pool: str  # empty for what nothing explains
    measured: int | None
    theory: int | None


def bill_lines(run: Run, *, width: int) -> list[Text]:
    """The bill of a run beside theory's: an item a line to scale, then what nothing explains, then the total.

    It is the host's: of a device nobody measures the items.

    Args:
        run: the run's document (`analysis.run.run_document`).
        width: columns.

    Returns:
        Lines that do not wrap; none where neither side has a bill.
    """
    theory = run["theory"] or {"bill": None, "peak_rss_bytes": None}
    lines = _paired(run["bill"], theory["bill"])
    if not lines:
        return []
    total = _Line("", "", run["peak"]["rss_bytes"], theory["peak_rss_bytes"])
    picture = _Picture(lines, total, width)
    return [*(picture.line(line) for line in lines), picture.total(total)]


def _paired(measured: Sequence[Mapping[str, Any]] | None, theory: Sequence[Mapping[str, Any]] | None) -> list[_Line]:
    """Items of either side, the measured ones first and what nothing explains last."""
    ours, theirs = _by_item(measured), _by_item(theory)
    keys = sorted(dict.fromkeys([*ours, *theirs]), key=lambda key: key[0] == Item.UNEXPLAINED)
    return [
        _Line(*key, None if measured is None else ours.get(key, 0), None if theory is None else theirs.get(key, 0))
        for key in keys
    ]


def _by_item(lines: Sequence[Mapping[str, Any]] | None) -> dict[tuple[str, str], int]:
    return {(line["item"], line["pool"] or ""): line["bytes"] for line in lines or () if line["pool"] != "vram"}


class _Picture:
    """Lays lines out for one width."""

    def __init__(self, lines: Sequence[_Line], total: _Line, width: int) -> None:
        figures = [figure or 0 for line in (*lines, total) for figure in (line.measured, line.theory)]
        self._width = max(width, 1)
        self._scale = Scale.fit(max(figures))
        self._axis_bytes = max(1, *(line.measured or 0 for line in lines))
        self._number_width = max(len(self._scale.text(figure)) for figure in figures)
        self._lay_out(lines, with_hints=True)
        if self._bar_width < _BAR_BESIDE_HINTS:
            self._lay_out(lines, with_hints=False)

    def _lay_out(self, lines: Sequence[_Line], *, with_hints: bool) -> None:
        self._hints = _HINTS if with_hints else {}
        self._label_width = max(self._label(line).cell_len for line in lines)
        fixed = self._label_width + len(_GAP + _GAP + _GAP + _THEORY) + 2 * self._number_width
        bar_width = min(self._width - fixed, _MOST_BAR)
        self._bar_width = bar_width if bar_width >= _LEAST_BAR else 0

    def line(self, line: _Line) -> Text:
        """One item."""
        text = self._label(line)
        text.pad_right(self._label_width - text.cell_len)
        text.append(_GAP + self._number(line.measured))
        if self._bar_width:
            text.append(_GAP)
            for run in self._bar(line):
                text.append(run.text, _style(line.pool))
        return self._with_theory(text, line)

    def total(self, total: _Line) -> Text:
        """The sums of both sides, with the unit of all numbers."""
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append("= ".rjust(self._label_width + len(_GAP)))
        words = f"{self._number(total.measured)} {self._scale.name} peak"
        text.append(words.ljust(self._number_width + len(_GAP) + self._bar_width), "answer")
        return self._with_theory(text, total)

    def _label(self, line: _Line) -> Text:
        text = Text(shown(line.item, _NAME_LIMIT), no_wrap=True, overflow="ellipsis")
        if line.pool not in ("", "heap"):
            text.append(f" ({shown(line.pool, _NAME_LIMIT)})", _style(line.pool))
        if line.item in self._hints:
            text.append(f", {self._hints[line.item]}", "quiet")
        return text

    def _number(self, nbytes: int | None) -> str:
        return self._scale.text(nbytes).rjust(self._number_width)

    def _bar(self, line: _Line) -> list[bars.Run]:
        nbytes = max(line.measured or 0, 0)
        return bars.memory_bar(
            0 if line.pool == "file" else nbytes,
            nbytes,
            ceiling_bytes=None,
            axis_bytes=self._axis_bytes,
            width=self._bar_width,
        )

    def _with_theory(self, text: Text, line: _Line) -> Text:
        text.append(f"{_GAP}{_THEORY}{self._number(line.theory)}", "theory")
        text.truncate(self._width)
        return text


def _style(pool: str) -> str:
    """A pool's style; a word that is none, as it may stand in somebody else's capture, has none."""
    return pool if pool in STYLES else ""
