"""Text from outside, made safe to print: nothing that a file says may drive the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NAME_LIMIT", "TEXT_LIMIT", "listed", "refused_by_system", "shown"]

NAME_LIMIT: Final = 80
TEXT_LIMIT: Final = 2000  # characters of a sentence


def shown(text: str, limit: int = NAME_LIMIT, *, keep_end: bool = False) -> str:
    """Text as one printable piece: escapes for what a terminal would obey, cut when long."""
    if len(text) > limit:
        text = f"…{text[1 - limit :]}" if keep_end else f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a collection in one printable piece: ``a, b, c and 4 more``."""
    every = list(names)
    text = ", ".join(shown(name) for name in every[:limit])
    return text if len(every) <= limit else f"{text} and {len(every) - limit:,} more"


def refused_by_system(error: OSError) -> str:
    """What the system refused, and for which file; not yet safe to print."""
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename else words
