"""Python's search for cycles of garbage, held off where there are none and very many objects."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collection_paused"]

_MANY: Final = 500_000  # objects, of which one search takes tenths of a second and stops all threads


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Search for no cycles while the context lasts, nor ever among what has been made in it if that is a lot.

    It is freed all the same, like everything that is in no cycle, as soon as nobody refers to it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _MANY:
            gc.freeze()
        if enabled:
            gc.enable()
