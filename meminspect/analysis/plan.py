"""Every strategy's theory for one task, against a budget. Nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.analysis.verdict import Candidate, Recommendation, rank, recommend, verdict
from meminspect.capture.records import Pool
from meminspect.collection import collection_paused
from meminspect.devices import kind_of
from meminspect.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meminspect.analysis.verdict import Aim, Verdict
    from meminspect.strategies import LoadTask, Strategy
    from meminspect.theory.ledger import Theory

__all__ = ["Plan", "PlanRow", "make_plan"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What one strategy would cost; verdict and theory are None where it cannot load the task."""

    strategy: Strategy
    why_not: str | None
    verdict: Verdict | None
    theory: Theory | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All strategies, those first that serve the aim best and those last that cannot load it, and the one to take."""

    rows: tuple[PlanRow, ...]
    recommendation: Recommendation
    ram_bytes: int | None
    vram_bytes: int | None
    shared: bool = False  # the device's memory is the host's
    device: str = "cpu"  # its kind


def make_plan(
    task: LoadTask,
    ram_bytes: int | None,
    vram_bytes: int | None = None,
    *,
    shared: bool = False,
    aim: Aim | None = None,
    strategies: Iterable[Strategy] | None = None,
    largest_mapping_bytes: int | None = None,
) -> Plan:
    """Work out every strategy's theory and hold it against the budgets.

    Args:
        task: what to load.
        ram_bytes: host memory that the load may take; None if unknown.
        vram_bytes: device memory that it may take; None if unknown or there is no device.
        shared: the device has no memory of its own: all that is planned is of `ram_bytes`.
        aim: what there shall be least of; None for device memory where the model is to be on a device, else for heap.
        largest_mapping_bytes: the most that the machine lets a process map at once; None for no bound.
        strategies: all of the registry's unless given.
    """
    wanted: Aim = aim or ("vram" if task.pool is Pool.VRAM else "heap")
    with collection_paused():  # a theory goes through very many steps, and none of them is in a cycle
        rows = [
            _row(strategy, task, ram_bytes, vram_bytes, largest_mapping_bytes, shared=shared)
            for strategy in (STRATEGIES.values() if strategies is None else strategies)
        ]
    able = [(row, Candidate(row.strategy.id, row.theory, row.verdict)) for row in rows if row.theory is not None]
    able.sort(key=lambda pair: rank(pair[1], wanted))
    return Plan(
        (*(row for row, _ in able), *(row for row in rows if row.theory is None)),
        _recommended(able, task, wanted),
        ram_bytes,
        vram_bytes,
        shared,
        kind_of(task.options.device),
    )


def _recommended(able: Sequence[tuple[PlanRow, Candidate]], task: LoadTask, aim: Aim) -> Recommendation:
    """Who has not asked for another model, or for a part of it, is given one only where nothing else fits."""
    wholes: list[Candidate] = []
    others: list[Candidate] = []
    for row, candidate in able:
        (wholes if row.strategy.is_whole(task) else others).append(candidate)
    plain, changed = recommend(wholes, aim), recommend(others, aim)
    if not wholes:
        return changed
    if plain.strategy_id is not None or changed.strategy_id is None:
        return plain
    return changed._replace(why=f"{changed.why}; nothing fits that loads the model as it is stored")


def _row(
    strategy: Strategy,
    task: LoadTask,
    ram_bytes: int | None,
    vram_bytes: int | None,
    largest_mapping_bytes: int | None,
    *,
    shared: bool,
) -> PlanRow:
    why_not = strategy.why_not(task, largest_mapping_bytes)
    if why_not is not None:
        return PlanRow(strategy, why_not, None, None)
    theory = strategy.theory(task)
    return PlanRow(strategy, None, verdict(theory, ram_bytes, vram_bytes, shared=shared), theory)
