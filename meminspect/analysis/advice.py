"""What would have done better than the strategy that was run, by theory."""

from __future__ import annotations

from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

from meminspect.analysis.plan import make_plan
from meminspect.analysis.verdict import SLIGHTLY
from meminspect.strategies import STRATEGIES

if TYPE_CHECKING:
    from meminspect.analysis.plan import PlanRow
    from meminspect.strategies import LoadTask, Strategy
    from meminspect.theory.ledger import Theory

__all__ = ["better_than"]


def better_than(
    strategy_id: str,
    task: LoadTask,
    ram_bytes: int | None,
    largest_mapping_bytes: int | None = None,
    vram_bytes: int | None = None,
    *,
    shared: bool = False,
) -> dict[str, Any] | None:
    """The recommended of the strategies that load the same model: its id, why, its peak and its recipe.

    None if it is the one that was run, if that one would hardly do better, and if nothing fits.

    Args:
        strategy_id: what was run.
        task: what it loaded.
        ram_bytes: host memory that the load may take; None if unknown.
        largest_mapping_bytes: the most that the machine lets a process map at once; None for no bound.
        vram_bytes: device memory that it may take; None if unknown or there is no device.
        shared: the device's memory is the host's.
    """
    run_strategy = STRATEGIES[strategy_id]
    alike = [one for one in STRATEGIES.values() if _loads(one, task) == _loads(run_strategy, task)]
    plan = make_plan(
        task, ram_bytes, vram_bytes, shared=shared, largest_mapping_bytes=largest_mapping_bytes, strategies=alike
    )
    rows = {row.strategy.id: row for row in plan.rows}
    row, run = rows.get(plan.recommendation.strategy_id or ""), rows[strategy_id]
    if row is None or row.theory is None or _as_good(run, row):
        return None
    return {
        "strategy": row.strategy.id,
        "why": plan.recommendation.why,
        "peak": asdict(row.theory.peak),
        "peak_rss_bytes": row.theory.peak_rss_bytes,
        "recipe": row.strategy.recipe(task),
    }


def _loads(strategy: Strategy, task: LoadTask) -> tuple[bool, bool]:
    """What model comes of it: quantised or not, with parameters of its own or without."""
    return strategy.quantises, bool(strategy.adds(task))


def _as_good(run: PlanRow, other: PlanRow) -> bool:
    """Whether a run ends as the other strategy would, within what nobody changes a loader for."""
    if run.theory is None or other.theory is None or run.verdict != other.verdict:
        return False
    peaks = zip(_peaks(run.theory), _peaks(other.theory), strict=True)
    return all(nbytes <= SLIGHTLY * fewer for nbytes, fewer in peaks)


def _peaks(theory: Theory) -> list[int]:
    return [nbytes or 0 for nbytes in (*astuple(theory.peak), theory.peak_rss_bytes)]
