"""How much of what a library made has a tensor's name, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.units import format_bytes, format_share

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["attributed_share", "attribution_line"]

_NEARLY_ALL: Final = 0.99


def attributed_share(run: Mapping[str, Any]) -> float | None:
    """The named part of all bytes that came into being; None where a recipe's own hooks name everything."""
    found = run.get("attribution")
    if not found:
        return None
    total_bytes = found["named_bytes"] + found["unattributed_bytes"]
    return found["named_bytes"] / total_bytes if total_bytes else 1.0


def attribution_line(run: Mapping[str, Any]) -> str:
    """What is attributed to tensors and, if it is worth a word, where the rest was made; empty without a library."""
    share = attributed_share(run)
    if share is None:
        return ""
    found = run["attribution"]
    words = f"{format_share(share)} of {format_bytes(found['named_bytes'] + found['unattributed_bytes'])} attributed"
    if share >= _NEARLY_ALL:
        return f"{words} to tensors"
    most = found["unattributed"][0]
    return f"{words} to tensors; of the rest {format_bytes(most['bytes'])} by {most['site']}"
