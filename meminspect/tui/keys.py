"""Which of the keys that work at a moment are worth telling of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.binding import ActiveBinding
    from textual.screen import Screen

__all__ = ["our_keys"]


def our_keys(screen: Screen[Any]) -> Iterator[ActiveBinding]:
    """The keys of a screen and of the app that do something of ours, with the focus where it is.

    Textual's own, for moving about and for selecting text, are many and the same everywhere; its descriptions begin
    with a capital, ours do not.
    """
    for active in screen.active_bindings.values():
        if active.enabled and active.binding.description[:1].islower() and not active.binding.system:
            yield active
