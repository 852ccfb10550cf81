"""What a run came to, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.theory.ledger import Item
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Run = Mapping[str, Any]

__all__ = ["OUTCOME_WORDS", "bill", "completed", "sentence"]

OUTCOME_WORDS: Final = {
    "completed": "completed",
    "oom_killed": "OOM-killed",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "signalled": "killed",
    "timed_out": "timed out",
    "cancelled": "cancelled",
    "refused": "refused",
}


def sentence(run: Run, *, decimal: bool) -> str:
    """The answer in words."""
    name, outcome, peak = run["strategy"], run["outcome"], run["peak"]["rss_bytes"]
    if not completed(run):
        return f"{name}: {run['message'] or OUTCOME_WORDS.get(outcome, outcome)}"
    floor = run["theory"]["floor_bytes"]
    times = f", {peak / floor:.2f} × the model" if floor else ""
    place = f" in '{run['peak_at']['phase']}'" + (f" at {run['peak_at']['tensor']}" if run["peak_at"]["tensor"] else "")
    words = f"{name} peaked at {format_bytes(peak, decimal=decimal)}{times},{place}"
    wrong = run["tensors"]["mismatched"]
    lost = run["overhead"]["events_lost"]
    if lost:
        words += f"; {lost:,} events found no room, so its place and its bill are incomplete"
    if wrong:
        words += f"; {wrong} tensors differ from the checkpoint"
    return f"{words}; {run['message']}" if run["message"] else words


def bill(run: Run, *, decimal: bool) -> str:
    """What the peak was made of, in one line; what nothing explains is left out where it is under a hundredth."""
    whole = run["peak"]["rss_bytes"]
    parts: list[str] = []
    for line in run["bill"]:
        if line["item"] == Item.UNEXPLAINED and abs(line["bytes"]) * 100 < whole:
            continue
        pool = "" if line["pool"] in ("heap", None) else f" ({line['pool']})"
        sign = "− " if line["bytes"] < 0 else "+ " if parts else ""
        parts.append(f"{sign}{format_bytes(abs(line['bytes']), decimal=decimal)} {line['item']}{pool}")
    return " ".join(parts)


def completed(run: Run) -> bool:
    """Whether the strategy came to its end."""
    return bool(run["outcome"] == "completed")
