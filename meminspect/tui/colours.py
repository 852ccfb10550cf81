"""What the sixteen colours of `renderables.palette` look like in the app, on dark and on light ground.

The names stay those of the terminal, so that the app, the command line and a terminal of sixteen colours agree.
"""

from __future__ import annotations

from typing import Final

from rich.terminal_theme import TerminalTheme

__all__ = ["DARK", "LIGHT"]

_Colour = tuple[int, int, int]

#                        black         red            green         yellow         blue           magenta
_ON_DARK: Final[list[_Colour]] = [
    (24, 26, 31), (240, 98, 98), (106, 196, 120), (240, 184, 76), (84, 140, 245), (214, 112, 214),
    (76, 196, 206), (200, 204, 212),  # cyan, white
]  # fmt: skip
_ON_LIGHT: Final[list[_Colour]] = [
    (40, 42, 48), (196, 40, 40), (32, 128, 52), (168, 104, 0), (32, 84, 200), (150, 40, 150),
    (0, 128, 144), (70, 74, 82),
]  # fmt: skip

DARK: Final = TerminalTheme((18, 19, 23), (222, 225, 230), _ON_DARK, _ON_DARK)
LIGHT: Final = TerminalTheme((250, 250, 250), (30, 32, 38), _ON_LIGHT, _ON_LIGHT)
