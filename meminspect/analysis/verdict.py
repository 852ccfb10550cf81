"""Whether a strategy fits into memory, and which one to take.

What must fit is what the kernel cannot take back: heap (there may be no swap, and a load that swaps is no load) and
pinned memory. Pages of mapped files can be dropped and read again, so they never keep a load from completing; but
when they and the heap exceed what is there, every pass over the model reads from the disk again.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from meminspect.analysis.words import heap_words
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.theory.ledger import Pools, Theory

__all__ = [
    "AIM_WORDS",
    "PROCESS_BYTES",
    "SLIGHTLY",
    "VERDICT_WORDS",
    "Aim",
    "Candidate",
    "Recommendation",
    "Verdict",
    "rank",
    "recommend",
    "unreclaimable_bytes",
    "verdict",
    "vram_bytes",
]

Aim: TypeAlias = Literal["heap", "vram", "resident"]
Verdict: TypeAlias = Literal["fits", "tight", "does_not_fit"]

SLIGHTLY: Final = 1.02
"""A ratio of what two strategies need for which nobody changes a loader."""

AIM_WORDS: Final[dict[Aim, str]] = {
    "heap": "least heap",
    "vram": "least device memory",
    "resident": "soonest resident",  # by the bytes that are moved until then: theory has no clock
}
"""What strategies can be sorted by, and the one to take is chosen by."""

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


def verdict(
    theory: Theory, usable_bytes: int | None, usable_vram_bytes: int | None = None, *, shared: bool = False
) -> Verdict | None:
    """Hold a theory's peak against what there is.

    - *does not fit*: heap and pinned memory exceed what is usable beside the process itself, or what the device's
      allocator reserves exceeds the device.
    - *tight*: either is beyond 90 % of its budget, or all host pools together exceed what is usable.

    Args:
        theory: what the strategy costs above the baseline.
        usable_bytes: host memory that the process may take; None if unknown.
        usable_vram_bytes: device memory that it may take; None if unknown or there is no device.
        shared: the device has no memory of its own, and what it reserves is the host's: heap, page cache and the copies
            on the device have one budget.

    Returns:
        None when a budget that matters is unknown.
    """
    if usable_bytes is None:
        return None
    room_bytes = usable_bytes - PROCESS_BYTES
    on_host, on_device, all_bytes = unreclaimable_bytes(theory.peak), vram_bytes(theory.peak), theory.peak_rss_bytes
    if shared:
        on_host, on_device, all_bytes = on_host + on_device, 0, all_bytes + on_device
    budgets = [(on_host, room_bytes)]
    if on_device:
        if usable_vram_bytes is None:
            return None
        budgets.append((on_device, usable_vram_bytes))
    if any(needed > usable for needed, usable in budgets):
        return "does_not_fit"
    part, whole = _COMFORT
    if all_bytes > room_bytes or any(needed * whole > usable * part for needed, usable in budgets):
        return "tight"
    return "fits"


def unreclaimable_bytes(pools: Pools) -> int:
    """Host memory that the kernel cannot take back.

    Heap and pinned memory are added though each is at its own highest moment: an upper bound, exact where only one
    of the two is used.
    """
    return (pools.heap_bytes or 0) + (pools.pinned_bytes or 0)


def vram_bytes(pools: Pools) -> int:
    """What the device must have: all that its allocator reserves."""
    return pools.vram_reserved_bytes or pools.vram_allocated_bytes or 0


def rank(candidate: Candidate, aim: Aim) -> tuple[int, ...]:
    """What candidates are sorted by: the best verdict first, then the least of what is aimed at, then of the rest."""
    theory = candidate.theory
    heap, vram = unreclaimable_bytes(theory.peak), vram_bytes(theory.peak)
    wanted = {
        "heap": (heap, vram, theory.peak_rss_bytes),
        "vram": (vram, heap, theory.peak_rss_bytes),
        "resident": (theory.moved_bytes, heap, theory.peak_rss_bytes),
    }
    verdict_rank = 0 if candidate.verdict is None else list(VERDICT_WORDS).index(candidate.verdict)
    return verdict_rank, *wanted[aim]


def recommend(candidates: Sequence[Candidate], aim: Aim = "heap") -> Recommendation:
    """Choose the first by `rank`, but of those that need next to as little the one that needs least of the rest.

    Equals are settled by the candidates' order.

    What does not fit is never recommended; where the budget is unknown, what needs least is.

    Args:
        candidates: the strategies that can load the task.
        aim: what there shall be least of.
    """
    if not candidates:
        return Recommendation(None, "no strategy can load this checkpoint with these options")
    ranks = [(candidate, rank(candidate, aim)) for candidate in candidates]
    first, (verdict_rank, least, *_) = min(ranks, key=itemgetter(1))
    if first.verdict == "does_not_fit":
        return Recommendation(None, f"no strategy fits: even {first.strategy_id} needs {_needs(first.theory)}")
    near = [one for one in ranks if one[1][0] == verdict_rank and one[1][1] <= SLIGHTLY * least]
    best, _ = min(near, key=lambda one: one[1][2:])
    why = [", ".join(filter(None, [_needs(best.theory), _saving(best, candidates, aim)]))]
    mapped_bytes = best.theory.peak.file_bytes or 0
    if best.verdict == "tight" and not unreclaimable_bytes(best.theory.peak):
        why.append("but its pages find no room at once and are read from disk over and over")
    elif best.verdict == "tight":
        why.append("but nothing fits with room to spare")
    elif mapped_bytes:
        why.append(f"the {format_bytes(mapped_bytes)} mapping can be dropped under pressure")
    return Recommendation(best.strategy_id, "; ".join(why))


def _needs(theory: Theory) -> str:
    """What cannot be taken back, of the device's memory and of the host's."""
    on_host, vram = heap_words(theory.peak.heap_bytes, theory.peak.pinned_bytes), vram_bytes(theory.peak)
    return f"{format_bytes(vram)} of device memory and {on_host}" if vram else on_host


def _saving(best: Candidate, candidates: Sequence[Candidate], aim: Aim) -> str:
    """What it saves against the yardstick of what is aimed at; of the total where that is the same."""
    theories = [candidate.theory for candidate in candidates if candidate.strategy_id == _YARDSTICK]
    if not theories or best.strategy_id == _YARDSTICK:
        return ""
    theory, other = best.theory, theories[0]
    savings = {
        "heap": (unreclaimable_bytes(other.peak) - unreclaimable_bytes(theory.peak), f"of heap less than {_YARDSTICK}"),
        "vram": (vram_bytes(other.peak) - vram_bytes(theory.peak), f"of device memory less than {_YARDSTICK}"),
        "resident": (other.moved_bytes - theory.moved_bytes, f"less to move until it is resident than {_YARDSTICK}"),
    }
    saved, words = savings[aim]
    if saved > 0:
        return f"{format_bytes(saved)} {words}"
    in_total = other.peak_rss_bytes - theory.peak_rss_bytes
    if in_total > 0:
        return f"{format_bytes(in_total)} less than {_YARDSTICK} in total"
    return f"as much as {_YARDSTICK}"
