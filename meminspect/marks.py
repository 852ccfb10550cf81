"""Where code says that its load begins or has ended. Outside a recording nobody listens, and nothing happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Moment", "listen", "mark", "unlisten"]

Moment = Literal["baseline", "loaded"]

_listeners: list[Callable[[Moment], None]] = []


def mark(moment: Moment = "baseline") -> None:
    """Say to `meminspect run -s script`, or to a `record()` around this, what the present moment is.

    Args:
        moment: "baseline": what is in memory now is subtracted from every figure, and the peak counts from here; the
            last such mark counts. "loaded": the load is over, and what comes later is no part of the peak and not
            watched from inside; the first such mark counts.

    Raises:
        ValueError: it is neither.
    """
    if moment not in ("baseline", "loaded"):
        raise ValueError(f"mark() takes 'baseline' or 'loaded', not {moment!r}")
    for listener in tuple(_listeners):
        listener(moment)


def listen(listener: Callable[[Moment], None]) -> None:
    """Have marks told to somebody from now on."""
    _listeners.append(listener)


def unlisten(listener: Callable[[Moment], None]) -> None:
    """Have them told to somebody no longer."""
    if listener in _listeners:
        _listeners.remove(listener)
