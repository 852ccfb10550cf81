"""Theory beside the measurement of one run."""

from __future__ import annotations

from typing import Any

from meminspect.theory.ledger import Item

TOLERANCE = 0.02
TOLERANCE_BYTES = 16 << 20  # what a process's other business may take: arenas, page tables' counters, code pages

Run = dict[str, Any]


def discrepancies(run: Run) -> list[str]:
    """Where theory and measurement, or the parts of the measurement, disagree by more than noise.

    What the allocator says that it kept of freed memory is no part of the theory.
    """
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
    for line in theory["bill"]:
        predicted = sum(other["bytes"] for other in theory["bill"] if other["item"] == line["item"])
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
