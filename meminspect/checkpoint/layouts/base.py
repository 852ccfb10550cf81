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

    `claims` looks at names, and at most at a file's first bytes, and returns the names of the files each of which marks
    a checkpoint of this layout (none: not this layout; several: the user has to name one, and `read` is not called). It
    may claim what `read` then refuses, where the refusal is the better answer.
    """

    id: str
    summary: str  # one line for help and tables
    claims: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path], Checkpoint]
