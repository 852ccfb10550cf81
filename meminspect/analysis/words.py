"""What a run came to, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.script_words import floor_bytes, floor_name
from meminspect.text import listed
from meminspect.theory.ledger import Item
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Run = Mapping[str, Any]

__all__ = [
    "ONE_RUN_NOISE", "OUTCOME_WORDS", "PHASE_WORDS", "advice", "bill", "comparison", "completed", "excess",
    "heap_words", "model", "names", "no_pools", "sentence", "times", "what_runs_short",
]  # fmt: skip

ONE_RUN_NOISE: Final = 0.25
"""By how much the times of identical loads may differ: their standard deviation is a fifth."""

OUTCOME_WORDS: Final = {
    "completed": "completed",
    "oom_killed": "OOM-killed",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "signalled": "killed",
    "timed_out": "timed out",
    "cancelled": "cancelled",
    "refused": "refused",
    "running": "running",
    "waiting": "waits",
    "not_run": "not run",
}

_NO_EXCESS: Final = (Item.FLOOR, Item.QUANTISED, Item.LIBRARIES, Item.UNEXPLAINED)

PHASE_WORDS: Final = {
    "": "starting",
    "import": "importing torch",
    "warm-up": "warming up on a tiny checkpoint",
    "build": "building the model",
    "move": "moving to the device",
    "read": "reading",
    "merge": "joining slices",
    "cast": "casting",
    "quantise": "quantising",
    "copy": "copying",
    "offload": "writing to a temporary folder",
    "assign": "assigning",
    "script": "in your code",
    "finalise": "finalising",
    "touch": "touching every page",
    "first forward": "calling the model once",
    "verify": "verifying against the files",
}
"""What a worker does in each phase."""


def no_pools(run: Run) -> str:
    """In a sentence that nobody knows which pool memory belonged to, and why; empty where one knows."""
    reason = run.get("pools_reason")
    return f"Heap, file and pinned memory not available: {reason}." if reason else ""


def sentence(run: Run) -> str:
    """The answer in words."""
    name, outcome, peak = run["strategy"], run["outcome"], run["peak"]["rss_bytes"]
    if not completed(run):
        return f"{name}: {run['message'] or OUTCOME_WORDS.get(outcome, outcome)}"
    floor = floor_bytes(run)
    size, on_device = format_bytes(peak), run["peak"].get("vram_allocated_bytes")
    times = f", {(on_device or peak) / floor:.2f} × {floor_name(run) or model(run['theory'])}" if floor else ""
    if on_device:
        size, times = f"{format_bytes(on_device)} of the device{times}; at {size} of the host", ""
    words = f"{name} peaked at {size}{_under(run.get('limit'))}{times}{_place(run['peak_at'])}"
    wrong = run["tensors"]["mismatched"]
    lost = run["overhead"]["events_lost"]
    if lost:
        words += f"; {lost:,} events found no room, so its place and its bill are incomplete"
    if wrong:
        words += f"; {wrong} tensors differ from the checkpoint"
    elsewhere = run["tensors"].get("unexpected")
    if elsewhere:
        words += f"; {elsewhere:,} tensors are in the model under other names or merged: not verified, and in no theory"
    return f"{words}; {run['message']}" if run["message"] else words


def model(theory: Mapping[str, Any] | None) -> str:
    """What the floor is of."""
    quantised = any(line["item"] == Item.QUANTISED for line in (theory or {}).get("bill") or ())
    return "the quantised model" if quantised else "the model"


def _under(limit: Mapping[str, Any] | None) -> str:
    """The limit that it ran under, and whether that held."""
    if not limit:
        return ""
    held = "" if limit["confined"] is not False else ", which did not hold: others had read the checkpoint before"
    return f" under a limit of {format_bytes(limit['bytes'])}{held}"


def _place(peak_at: Mapping[str, Any]) -> str:
    """Where the peak was; nothing where the load never rose above its baseline by what can be told apart."""
    if peak_at["phase"] is None:
        return ""
    return f", in '{peak_at['phase']}'" + (f" at {peak_at['tensor']}" if peak_at["tensor"] else "")


def bill(run: Run) -> str:
    """What the peak was made of, in one line; what nothing explains is left out where it is under a hundredth."""
    whole = run["peak"]["rss_bytes"]
    parts: list[str] = []
    for line in run["bill"]:
        if line["item"] == Item.UNEXPLAINED and abs(line["bytes"]) * 100 < whole:
            continue
        pool = "" if line["pool"] in ("heap", None) else f" ({line['pool']})"
        sign = "− " if line["bytes"] < 0 else "+ " if parts else ""
        parts.append(f"{sign}{format_bytes(abs(line['bytes']))} {line['item']}{pool}")
    return " ".join(parts)


def completed(run: Run) -> bool:
    """Whether the strategy came to its end."""
    return bool(run["outcome"] == "completed")


def advice(run: Run) -> str:
    """What would do better, and at what price; empty when nothing would or nobody has worked it out."""
    better = run.get("better")
    if not better:
        return ""
    peak = better["peak"]
    needs = heap_words(peak["heap_bytes"], peak["pinned_bytes"])
    if peak["file_bytes"]:
        needs += f", {format_bytes(peak['file_bytes'])} of reclaimable file pages"
    if peak.get("vram_reserved_bytes"):
        needs = f"{format_bytes(peak['vram_reserved_bytes'])} of the device, {needs}"
    return f"{better['strategy']}: {needs}"


def heap_words(heap_bytes: int | None, pinned_bytes: int | None) -> str:
    """How much of the host's memory cannot be taken back: of heap, and page-locked where there is such."""
    heap = f"{format_bytes(heap_bytes)} of heap" if heap_bytes else ""
    pinned = f"{format_bytes(pinned_bytes)} page-locked" if pinned_bytes else ""
    return " and ".join(filter(None, (heap, pinned))) or "no heap"


def excess(run: Run) -> str:
    """What of the peak is no part of the loaded model, in a sentence; empty where that is next to nothing."""
    parts = [line for line in run["bill"] or () if line["item"] not in _NO_EXCESS]
    nbytes, whole = sum(line["bytes"] for line in parts), run["peak"]["rss_bytes"]
    if not whole or nbytes * 100 < whole:
        return ""
    items = listed(dict.fromkeys(line["item"] for line in sorted(parts, key=lambda line: -line["bytes"])))
    size, share = format_bytes(nbytes), round(100 * nbytes / whole)
    return f"Not the model: {share} % of the peak, {size}: {items}."


def times(run: Run) -> list[str]:
    """How long it took, from where, and whether what was loaded is right: the weightiest first."""
    tensors, cache = run["tensors"], run["cache"]["state"]
    parts = []
    if run["returned_s"] is not None:
        parts.append(f"returned after {format_duration(run['returned_s'])}")
    if run["resident_s"] is not None:
        parts.append(f"resident after {format_duration(run['resident_s'])}")
    if cache is not None:
        parts.append(f"{cache} page cache")
    if tensors["verified"] is not None:
        parts.append(f"{tensors['verified']:,} of {tensors['expected']:,} tensors verified")
    return parts


def names(runs: Sequence[Run]) -> list[str]:
    """What several runs are called: by their strategy, and by a number where others have the same."""
    called = [
        run["strategy"]
        if run["repeat"]["of"] in (1, None)
        else f"{run['strategy']} {run['repeat']['index']}/{run['repeat']['of']}"
        for run in runs
    ]
    return [
        f"{name} #{called[: place + 1].count(name)}" if called.count(name) > 1 else name
        for place, name in enumerate(called)
    ]


def comparison(runs: Sequence[Run]) -> str:
    """Which of several runs to take, in a sentence; empty where none came to its end and loaded the right thing."""
    finished = [
        (name, run)
        for name, run in zip(names(runs), runs, strict=True)
        if completed(run) and run["peak"]["rss_bytes"] is not None and not run["tensors"]["mismatched"]
    ]
    if not finished:
        return ""
    pool, key = what_runs_short(run["peak"] for _, run in finished)
    thrifty, least = min(finished, key=lambda named: (named[1]["peak"][key], named[1]["peak"]["rss_bytes"]))
    quick, soonest = min(finished, key=lambda named: named[1]["resident_s"] or math.inf)
    size = format_bytes(least["peak"][key])
    as_little = [name for name, run in finished if run is not least and format_bytes(run["peak"][key]) == size]
    words = f"{thrifty} took least {pool}, {size}"
    if as_little:
        words += f", as did {' and '.join(as_little)}"
    if soonest["resident_s"] is None:
        return words
    after = f"was resident soonest, after {format_duration(soonest['resident_s'])}"
    words = f"{words}, and {after}" if soonest is least else f"{words}; {quick} {after}"
    return words + _too_close(finished, soonest)


def what_runs_short(peaks: Iterable[Mapping[str, int | None]]) -> tuple[str, str]:
    """What loads die of, in words and as a key of all these peaks.

    The device's memory where they load to one, else heap; the total where the system does not tell that apart.
    """
    every = list(peaks)
    for pool, key in (("device memory", "vram_allocated_bytes"), ("heap", "heap_bytes")):
        if every and all(peak.get(key) is not None for peak in every):
            return pool, key
    return "memory", "rss_bytes"


def _too_close(finished: Sequence[tuple[str, Run]], soonest: Run) -> str:
    """Which of the others were so nearly as soon that single runs cannot tell who is; empty where none was."""
    longer = {
        name: run["resident_s"] / soonest["resident_s"] - 1
        for name, run in finished
        if run is not soonest and run["resident_s"] and soonest["resident_s"]
    }
    close = {name: share for name, share in longer.items() if share <= ONE_RUN_NOISE}
    if not close:
        return ""
    at_most = "at most " if len(close) > 1 else ""
    share = f"{at_most}{100 * max(close.values()):.0f} %"
    return f"; {' and '.join(close)} took {share} longer, which single runs cannot tell from chance"
