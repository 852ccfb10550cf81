"""The smallest limits that strategies were found to survive: a sentence each, and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.renderables.scale import scaled, unit_for
from meminspect.renderables.texts import table
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    Fit = Mapping[str, Any]

__all__ = ["fit_sentence", "fit_table"]

_SIZES: Final = ("dies_at_bytes", "completes_at_bytes", "theory_bytes")
_AS_LONG: Final = 1.05  # times this is the same time: two cold reads differ by more


def fit_sentence(fit: Fit) -> str:
    """The answer in words."""

    def size(key: str) -> str:
        return format_bytes(fit[key])

    name, message = fit["strategy"], fit["message"]
    theory = "" if fit["theory_bytes"] is None else f"; theory {size('theory_bytes')}"
    if fit["answer"] == "found":
        words = f"{name} needs a limit of {size('limit_bytes')}{theory}{_pace(fit)}"
        return f"{words}; {message}" if message else words
    if fit["answer"] == "does_not_suffice":
        return f"{name}: {size('usable_bytes')}, all that this machine can give, does not suffice{theory}"
    if fit["answer"] == "interrupted":
        return f"{name}: interrupted{_so_far(fit)}{theory}"
    return f"{name}: {message}"


def _pace(fit: Fit) -> str:
    ratio = fit["slowdown"]
    if ratio is None:
        return ""
    return (
        ", and takes as long there as without one" if ratio < _AS_LONG else f", and takes {ratio:.1f} × as long there"
    )


def _so_far(fit: Fit) -> str:
    dies, completes = (fit[key] and format_bytes(fit[key]) for key in _SIZES[:2])
    parts = [*([f"dies at {dies}"] if dies else []), *([f"completes at {completes}"] if completes else [])]
    return f"; it {' and '.join(parts)}" if parts else ""


def fit_table(fits: Sequence[Fit]) -> Table:
    """A row for each strategy: the two ends, theory and what lies between, and the time at the limit and without."""
    largest = max((fit[key] for fit in fits for key in _SIZES if fit[key] is not None), default=0)
    unit, name = unit_for(largest)
    columns = (f"limits in {name}", "dies", "completes", "theory", "diff", "time there", "no limit", "× time")
    return table(columns, [_row(fit, unit) for fit in fits], gap=1)


def _row(fit: Fit, unit: int) -> list[str]:
    difference, ratio = fit["difference_bytes"], fit["slowdown"]
    return [
        fit["strategy"],
        *(scaled(fit[key], unit) for key in _SIZES),
        "–" if difference is None else f"{difference / unit:+.2f}",
        format_duration(fit["resident_s"]),
        format_duration(fit["unlimited_resident_s"]),
        "–" if ratio is None else f"{ratio:.2f}",
    ]
