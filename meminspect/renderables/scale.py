"""One unit for all sizes of a table, named in its head, so that they can be compared at a glance."""

from __future__ import annotations

from meminspect.units import uses_decimal

__all__ = ["scaled", "unit_for"]


def unit_for(largest_bytes: int) -> tuple[int, str]:
    """The unit that suits the largest of some sizes, in bytes, and its name."""
    base, names = (1000, ("MB", "GB")) if uses_decimal() else (1024, ("MiB", "GiB"))
    return (base**3, names[1]) if largest_bytes >= base**3 else (base**2, names[0])


def scaled(nbytes: float | None, unit: int) -> str:
    """A size in a unit, with as many digits as tell something apart; ``–`` for None."""
    if nbytes is None:
        return "–"
    value = nbytes / unit
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
