"""What each colour means, on every screen and in every chart."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLES"]

# Each colour has one meaning; all are among the 16 that every terminal has.
STYLES: Final[dict[str, str]] = {
    "heap": "blue",
    "file": "cyan",
    "pinned": "blue",
    "undivided": "none",
    "vram": "magenta",
    "theory": "white",
    "ceiling": "yellow",
    "fits": "green",
    "tight": "yellow",
    "does_not_fit": "red",
    "trouble": "red",
    "answer": "bold",
    "heading": "bold",
    "label": "dim",
    "quiet": "dim",
    "empty": "none",
}
