"""Strategies of other packages: entry points of the group `meminspect.strategies`, each a `Strategy`.

A plug-in that cannot be imported, is no strategy, or would stand in the place of another is left out, with a line that
says why. One that fails over a checkpoint is, for that checkpoint, a strategy that cannot load it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, TypeVar

from meminspect.strategies.strategy import Strategy
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator
    from importlib.metadata import EntryPoint

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["GROUP", "PluggedIn", "load_plugins"]

GROUP: Final = "meminspect.strategies"
_ID: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_RESERVED: Final = ("all", "script", "record")
_ERROR_LIMIT: Final = 200
Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class PluggedIn:
    """What was found.

    Args:
        strategies: those that are fit for use, by their ids.
        packages: the distributions that they come from: a worker's environment needs them, too.
        faults: a line on each that is not.
    """

    strategies: dict[str, Strategy]
    packages: tuple[str, ...]
    faults: tuple[str, ...]


def load_plugins(taken: Container[str], found: Iterable[EntryPoint] | None = None) -> PluggedIn:
    """Import the plug-ins of this environment.

    Args:
        taken: ids that are in use.
        found: their entry points; None for those that are installed.
    """
    strategies: dict[str, Strategy] = {}
    packages: list[str] = []
    faults: list[str] = []
    for point in _installed(faults) if found is None else found:
        package = point.dist.name if point.dist is not None else ""
        strategy, fault = _loaded(point, taken, strategies)
        if strategy is None:
            source = f" of {package} {point.dist.version}" if point.dist is not None else ""
            faults.append(shown(f"plug-in '{point.name}'{source} is left out: {fault}", 2 * _ERROR_LIMIT))
            continue
        strategies[strategy.id] = _guarded(strategy, package)
        packages.append(package)
    return PluggedIn(strategies, tuple(dict.fromkeys(filter(None, packages))), tuple(faults))


def _installed(faults: list[str]) -> Iterable[EntryPoint]:
    try:
        return sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    except Exception as error:  # noqa: BLE001 - the metadata of whatever is installed
        faults.append(f"plug-ins are left out: this environment's packages cannot be listed: {_words(error)}")
        return ()


def _loaded(point: EntryPoint, taken: Container[str], others: Container[str]) -> tuple[Strategy | None, str]:
    """The strategy of an entry point, or why it is none."""
    without_torch = "torch" not in sys.modules
    try:
        strategy = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever other people's code raises
        return None, _words(error)
    if not isinstance(strategy, Strategy):
        return None, f"{point.value} is a {type(strategy).__name__}, not a meminspect.strategies.Strategy"
    if _ID.fullmatch(strategy.id) is None:
        return None, f"its id {shown(repr(strategy.id), 60)} is not of small letters, digits and single hyphens"
    if strategy.id in _RESERVED or strategy.id in taken:
        return None, f"its id '{strategy.id}' is one of meminspect's own"
    if strategy.id in others:
        return None, f"another plug-in has its id '{strategy.id}'"
    if without_torch and "torch" in sys.modules:
        return None, "it imports torch, which takes seconds, before anything is loaded: import it in the recipe only"
    return strategy, ""


def _guarded(strategy: Strategy, package: str) -> Strategy:
    """The strategy, where what it fails over is said in `why_not` instead of being raised."""

    def lacks(task: LoadTask) -> str | None:
        lack = task.options.interpreter.lacks(package) if package else None
        if lack is not None:
            return f"the environment of --python {lack}, the plug-in that this is from: install it there, too"
        try:
            lack = strategy.lacks(task)
            if lack is None:
                _try_all(strategy, task)
        except Exception as error:  # noqa: BLE001 - whatever other people's code raises
            return f"its plug-in fails: {_words(error)}"
        return lack

    def ledger(task: LoadTask) -> Iterator[Step]:
        with contextlib.suppress(Exception):  # `lacks` says it
            yield from strategy.ledger(task)

    return dataclasses.replace(
        strategy, lacks=lacks, ledger=ledger, maps=_or(strategy.maps, False), recipe=_or(strategy.recipe, "")
    )


def _try_all(strategy: Strategy, task: LoadTask) -> None:
    """Ask all that a run will ask.

    Raises:
        Exception: whatever it raises.
    """
    compile(strategy.recipe(task), "<recipe>", "exec", dont_inherit=True)
    strategy.built_dtype(task)
    strategy.maps(task)
    strategy.theory(task)


def _or(ask: Callable[[LoadTask], Answer], otherwise: Answer) -> Callable[[LoadTask], Answer]:
    def call(task: LoadTask) -> Answer:
        try:
            return ask(task)
        except Exception:  # noqa: BLE001 - `lacks` says it
            return otherwise

    return call


def _words(error: BaseException) -> str:
    """An exception in a line."""
    text = " ".join(str(error).split())
    return shown(f"{type(error).__name__}: {text}" if text else type(error).__name__, _ERROR_LIMIT)
