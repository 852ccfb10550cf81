"""What a layout has to offer: a name, a line about it, and the two functions that recognise and read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which a checkpoint lies on disk.

    `claims` looks at names, and at most at a file's first bytes, and returns the name of the entry that marks the
    layout (None: not this layout). It may claim what `read` then refuses, where the refusal is the better answer.
    """

    id: str
    summary: str  # one line for help and tables
    claims: Callable[[Path], str | None]
    read: Callable[[Path], Checkpoint]
