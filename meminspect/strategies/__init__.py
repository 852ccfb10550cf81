"""The registry of loading strategies: one file each, one line here, in the order in which they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.errors import UsageError
from meminspect.strategies import meta_assign, mmap_assign, naive, sharded
from meminspect.strategies.strategy import Strategy
from meminspect.strategies.task import CASTABLE, LoadOptions, LoadTask

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CASTABLE", "STRATEGIES", "LoadOptions", "LoadTask", "Strategy", "find"]

STRATEGIES: Final[Mapping[str, Strategy]] = {
    strategy.id: strategy
    for strategy in (
        mmap_assign.STRATEGY,
        meta_assign.STRATEGY,
        sharded.STRATEGY,
        naive.STRATEGY,
    )
}


def find(id_: str) -> Strategy:
    """The strategy of an id.

    Raises:
        UsageError: there is none.
    """
    try:
        return STRATEGIES[id_]
    except KeyError:
        raise UsageError(f"there is no strategy '{id_}'", f"choose from {', '.join(STRATEGIES)}, or all") from None
