"""Theory beside the measurement of one run."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from meminspect.capture.records import Pool
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meminspect.theory.ledger import Step

TOLERANCE = 0.02
TOLERANCE_BYTES = 16 << 20  # what a process's other business may take: arenas, page tables' counters, code pages

Run = dict[str, Any]


def discrepancies(run: Run, steps: Sequence[Step] = ()) -> list[str]:
    """Where theory and measurement, or the parts of the measurement, disagree by more than noise.

    What the allocator says that it kept of freed memory is no part of the theory.

    Args:
        run: as the JSON contract has it.
        steps: of the ledger. Given, a bill may be that of any moment at which theory is as high as at its peak: which
            of them is measured as the highest is decided by less than anybody can tell.
    """
    found = _differing(run, run["theory"]["bill"])
    if found and all(one.startswith("bill's") for one in found):
        return next(([] for bill in _bills_at_the_peak(steps) if not _differing(run, bill)), found)
    return found


def _bills_at_the_peak(steps: Sequence[Step]) -> Iterator[list[dict[str, Any]]]:
    """What the host's memory consists of at each moment at which it is about as much as it ever is."""
    totals = list(itertools.accumulate(0 if step.pool is Pool.VRAM else step.delta_bytes for step in steps))
    enough = max(totals, default=0) - TOLERANCE_BYTES // 4
    held: Counter[str] = Counter()
    for step, total in zip(steps, totals, strict=True):
        if step.pool is not Pool.VRAM:
            held[step.item] += step.delta_bytes
        if total >= enough:
            yield [{"item": item, "bytes": nbytes} for item, nbytes in held.items() if nbytes]


def _differing(run: Run, theory_bill: Sequence[Mapping[str, Any]]) -> list[str]:
    theory, peak, bill = run["theory"], run["peak"], run["bill"]
    retained = sum(line["bytes"] for line in bill if line["item"] == Item.RETAINED)
    compared = {pool: (theory["peak"][pool], peak[pool]) for pool in ("file_bytes", "pinned_bytes")}
    compared["heap_bytes"] = theory["peak"]["heap_bytes"] + retained, peak["heap_bytes"]
    compared["rss_bytes"] = theory["peak_rss_bytes"] + retained, peak["rss_bytes"]
    compared["steady heap_bytes"] = theory["steady"]["heap_bytes"], run["steady"]["trimmed_heap_bytes"]
    compared["steady file_bytes"] = theory["steady"]["file_bytes"], run["steady"]["file_bytes"]
    measured_bill: dict[str, int] = {}
    for line in bill:
        measured_bill[line["item"]] = measured_bill.get(line["item"], 0) + line["bytes"]
    unexplained = measured_bill.pop(Item.UNEXPLAINED, 0)
    compared["unexplained"] = 0, unexplained
    for line in theory_bill:
        predicted = sum(other["bytes"] for other in theory_bill if other["item"] == line["item"])
        compared[f"bill's {line['item']}"] = predicted, measured_bill.get(line["item"], 0)
    found = [
        f"{name}: theory {expected:,}, measured {measured:,}"
        for name, (expected, measured) in compared.items()
        if abs(measured - expected) > max(TOLERANCE * theory["peak_rss_bytes"], TOLERANCE_BYTES)
    ]
    bracket = run["peak_bracket_bytes"]
    found += [
        f"{pool}: its peak may lie {bracket[pool]:,} higher"
        for pool in ("heap_bytes", "file_bytes", "pinned_bytes", "rss_bytes")
        if bracket[pool] > max(TOLERANCE * theory["peak_rss_bytes"], TOLERANCE_BYTES)
    ]
    if sum(line["bytes"] for line in bill) != peak["rss_bytes"]:
        found.append("the bill does not add up to the peak")
    return found
