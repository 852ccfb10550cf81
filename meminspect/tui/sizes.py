"""The sizes of terminals that screens are laid out for: classes that their rules may name."""

from __future__ import annotations

from typing import Final

__all__ = ["HEIGHTS", "LEAST_HEIGHT", "LEAST_WIDTH", "WIDTHS"]

LEAST_WIDTH: Final = 60
LEAST_HEIGHT: Final = 15

WIDTHS: Final = [(0, "-too-narrow"), (LEAST_WIDTH, "-narrow"), (100, "-normal"), (160, "-wide")]
HEIGHTS: Final = [(0, "-too-low"), (LEAST_HEIGHT, "-low"), (32, "-high"), (50, "-very-high")]
