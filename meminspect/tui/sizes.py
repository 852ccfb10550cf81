"""What screens are laid out for: sizes of terminals, as classes that their rules may name, and how much finds room."""

from __future__ import annotations

from typing import Final

__all__ = ["HEIGHTS", "LEAST_HEIGHT", "LEAST_WIDTH", "MOST_PANELS", "WIDTHS"]

MOST_PANELS: Final = 4  # runs beside each other; more cannot be read

LEAST_WIDTH: Final = 60
LEAST_HEIGHT: Final = 15

WIDTHS: Final = [(0, "-too-narrow"), (LEAST_WIDTH, "-narrow"), (100, "-normal"), (160, "-wide")]
HEIGHTS: Final = [(0, "-too-low"), (LEAST_HEIGHT, "-low"), (32, "-high"), (50, "-very-high")]
