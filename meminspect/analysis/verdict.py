"""Whether a strategy fits into memory, and which one to take.

What must fit is what the kernel cannot take back: heap (there may be no swap, and a load that swaps is no load) and
pinned memory. Pages of mapped files can be dropped and read again, so they never keep a load from completing; but
when they and the heap exceed what is there, every pass over the model reads from the disk again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.theory.ledger import Pools, Theory

__all__ = [
    "PROCESS_BYTES",
    "VERDICT_WORDS",
    "Candidate",
    "Recommendation",
    "Verdict",
    "recommend",
    "unreclaimable_bytes",
    "verdict",
]

Verdict: TypeAlias = Literal["fits", "tight", "does_not_fit"]

VERDICT_WORDS: Final[dict[Verdict, str]] = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}
"""The verdicts from best to worst, as they are read."""

PROCESS_BYTES: Final = 320 << 20
"""What a process that loads takes besides: the baseline of a worker, as measured with torch 2.13 for CPU (310 MiB)."""

_COMFORT: Final = (9, 10)  # beyond this share of a budget anything else that the machine does can tip it over
_YARDSTICK: Final = "naive"


class Candidate(NamedTuple):
    """An available strategy in the order of the registry."""

    strategy_id: str
    theory: Theory
    verdict: Verdict | None


class Recommendation(NamedTuple):
    """What to do, and why in one sentence."""

    strategy_id: str | None  # None: no strategy can be recommended
    why: str


def verdict(theory: Theory, usable_bytes: int | None, usable_vram_bytes: int | None = None) -> Verdict | None:
    """Hold a theory's peak against what there is.

    - *does not fit*: heap and pinned memory exceed what is usable beside the process itself, or what the device's
      allocator reserves exceeds the device.
    - *tight*: either is beyond 90 % of its budget, or all host pools together exceed what is usable.

    Args:
        theory: what the strategy costs above the baseline.
        usable_bytes: host memory that the process may take; None if unknown.
        usable_vram_bytes: device memory that it may take; None if unknown or there is no device.

    Returns:
        None when a budget that matters is unknown.
    """
    if usable_bytes is None:
        return None
    room_bytes = usable_bytes - PROCESS_BYTES
    budgets = [(unreclaimable_bytes(theory.peak), room_bytes)]
    vram_bytes = theory.peak.vram_reserved_bytes or theory.peak.vram_allocated_bytes
    if vram_bytes:
        if usable_vram_bytes is None:
            return None
        budgets.append((vram_bytes, usable_vram_bytes))
    if any(needed > usable for needed, usable in budgets):
        return "does_not_fit"
    part, whole = _COMFORT
    if theory.peak_rss_bytes > room_bytes or any(needed * whole > usable * part for needed, usable in budgets):
        return "tight"
    return "fits"


def unreclaimable_bytes(pools: Pools) -> int:
    """Host memory that the kernel cannot take back.

    Heap and pinned memory are added though each is at its own highest moment: an upper bound, exact where only one
    of the two is used.
    """
    return (pools.heap_bytes or 0) + (pools.pinned_bytes or 0)


def recommend(candidates: Sequence[Candidate], *, decimal: bool = False) -> Recommendation:
    """Choose: the best verdict first, then the least that cannot be reclaimed, then the least in total.

    Equals are settled by the candidates' order. What does not fit is never recommended; where the budget is unknown,
    what needs least is.

    Args:
        candidates: the strategies that can load the task.
        decimal: write sizes in decimal units.
    """
    if not candidates:
        return Recommendation(None, "no strategy can load this checkpoint with these options")
    ranks = list(VERDICT_WORDS)
    best = min(
        candidates,
        key=lambda candidate: (
            0 if candidate.verdict is None else ranks.index(candidate.verdict),
            unreclaimable_bytes(candidate.theory.peak),
            candidate.theory.peak_rss_bytes,
        ),
    )
    needs = _needs(best.theory, decimal=decimal)
    if best.verdict == "does_not_fit":
        return Recommendation(None, f"no strategy fits: even {best.strategy_id} needs {needs}")
    saving = _saving(best, candidates, decimal=decimal)
    if best.verdict == "tight" and not unreclaimable_bytes(best.theory.peak):
        return Recommendation(
            best.strategy_id,
            f"it needs {needs}{saving}; but its pages find no room at once and are read from disk over and over",
        )
    if best.verdict == "tight":
        return Recommendation(best.strategy_id, f"it needs {needs}{saving}, and nothing fits with room to spare")
    return Recommendation(best.strategy_id, f"it needs {needs}{saving}")


def _needs(theory: Theory, *, decimal: bool) -> str:
    unreclaimable = unreclaimable_bytes(theory.peak)
    heap = f"{format_bytes(unreclaimable, decimal=decimal)} of heap" if unreclaimable else "no heap"
    reclaimable = theory.peak_rss_bytes - unreclaimable
    if reclaimable <= 0:
        return heap
    return f"{heap} and {format_bytes(reclaimable, decimal=decimal)} of file pages that can be reclaimed"


def _saving(best: Candidate, candidates: Sequence[Candidate], *, decimal: bool) -> str:
    """What it saves against the yardstick: heap first, since that is what loads die of."""
    others = [candidate.theory for candidate in candidates if candidate.strategy_id == _YARDSTICK]
    if not others or best.strategy_id == _YARDSTICK:
        return ""
    heap_saved = unreclaimable_bytes(others[0].peak) - unreclaimable_bytes(best.theory.peak)
    if heap_saved > 0:
        return f", {format_bytes(heap_saved, decimal=decimal)} of heap less than {_YARDSTICK}"
    total_saved = others[0].peak_rss_bytes - best.theory.peak_rss_bytes
    if total_saved > 0:
        return f", {format_bytes(total_saved, decimal=decimal)} less than {_YARDSTICK} in total"
    return f", as much as {_YARDSTICK}"
