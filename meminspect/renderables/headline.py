"""The first lines of a run's screen: how it is going, then how it went."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.text import Text

from meminspect.analysis.script_words import pattern_lines
from meminspect.analysis.steady import retained
from meminspect.analysis.words import OUTCOME_WORDS, PHASE_WORDS, advice, completed, excess, no_pools, sentence, times
from meminspect.renderables.texts import safe
from meminspect.text import shown
from meminspect.units import format_bytes, format_duration, format_moment, format_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.analysis.follow import RunView

__all__ = ["headline", "provenance", "starting", "title"]

_SEPARATOR: Final = " · "
_BAR_WIDTH: Final = 24
_STEP_WIDTH: Final = 36
_NAME_LIMIT: Final = 18
_YEAR: Final = len("2026-")


def headline(view: RunView, width: int) -> list[Text]:
    """A run in two or three lines, the answer first.

    Args:
        view: the run.
        width: columns.
    """
    if view.result is not None:
        return _ended(view, view.result, width)
    name = view.strategy or "run"
    if view.load_ns is None:
        words = view.preparing or PHASE_WORDS.get(view.phase, view.phase)
        return [safe(f"{name}{_SEPARATOR}{words} …", "answer")]
    return [_doing(view, name, width), _progress(view, width), _memory(view, width)]


def _doing(view: RunView, name: str, width: int) -> Text:
    words = f"{name}{_SEPARATOR}{PHASE_WORDS.get(view.phase, view.phase)}"
    room = width - len(words) - 1
    return safe(f"{words} {_end_of(view.tensor, room)}" if room > 8 and view.tensor else words, "answer")


def _end_of(name: str, room: int) -> str:
    """The end of a name in so many columns, of which an escape takes several and some letters two."""
    text = shown(name, room, keep_end=True)
    while cell_len(text) > room:
        text = f"…{text[2:]}"
    return text


def _progress(view: RunView, width: int) -> Text:
    seconds = (view.load_ns or 0) / 1e9
    if not view.work_bytes:
        return Text(format_duration(seconds))
    share = min(view.done_bytes / view.work_bytes, 1.0)
    rate = view.done_bytes / seconds if seconds > 0 else None
    pace = f", {format_rate(rate)}" if rate else ""
    parts = [f"{int(100 * share)} % of {format_bytes(view.work_bytes)} of work{pace}", format_duration(seconds)]
    if rate:
        left_s = max(view.work_bytes - view.done_bytes, 0) / rate
        parts.append(f"{format_duration(left_s)} left" if share < 1 else "done")
    words = _SEPARATOR.join(parts)
    bar = max(0, min(_BAR_WIDTH, width - len(words) - 1))
    full = round(share * bar)
    return Text.assemble(("━" * full, "answer"), ("╌" * (bar - full), "quiet"), " " if bar else "", words)


def _memory(view: RunView, width: int) -> Text:
    theory = "" if view.theory_bytes is None else f" of {format_bytes(view.theory_bytes)} predicted"
    if not view.tells_pools:
        held = f"in memory {format_bytes(max(view.held.total_bytes, 0))}, of no known pool"
        return Text.assemble(("▒ ", "undivided"), f"{held}{_SEPARATOR}peak {format_bytes(view.peak_bytes)}{theory}")
    line = Text.assemble(
        ("█ ", "heap"), f"heap {format_bytes(max(view.held.heap_bytes, 0))}{_SEPARATOR}",
        ("░ ", "file"), f"file {format_bytes(max(view.held.file_bytes, 0))}{_SEPARATOR}",
    )  # fmt: skip
    if view.peaks.pinned_bytes > 0:
        line.append("▓ ", "pinned").append(f"pinned {format_bytes(view.held.pinned_bytes)}{_SEPARATOR}")
    line.append(f"peak {format_bytes(view.peak_bytes)}{theory}")
    baseline = "".join(f"{_SEPARATOR}{part}" for part in _baseline(view))
    return line.append(baseline, "quiet") if line.cell_len + len(baseline) <= width else line


def _baseline(view: RunView) -> list[str]:
    return [] if view.baseline is None else [f"baseline {format_bytes(view.baseline.rss_bytes)}"]


def _ended(view: RunView, run: dict[str, Any], width: int) -> list[Text]:
    lines = [safe(f"{sentence(run)}.", "answer" if completed(run) else "trouble")]
    lines += [safe(words) for words in (no_pools(run), excess(run), retained(run)) if words]
    lines += [safe(line, "answer") for line in pattern_lines(run)[:1]]  # the costliest: the others are with the bill
    better = advice(run)
    if better:
        lines.append(Text.assemble(("→ ", "answer"), safe(f"{better} (i: recipe)")))
    known = [*times(run), *_baseline(view)]
    return [*lines, _as_far_as_it_goes(known, width)] if known else lines


def _as_far_as_it_goes(parts: Sequence[str], width: int) -> Text:
    """Parts in the order of their weight; those that find no room are left out."""
    words = ""
    for part in parts:
        longer = f"{words}{_SEPARATOR}{part}" if words else part
        if len(longer) > width:
            break
        words = longer
    return safe(words, "quiet")


def starting(view: RunView) -> list[Text]:
    """What has to be done before a load, how far that is, and what will come then."""
    begins = [(t_ns, PHASE_WORDS.get(name, shown(name))) for t_ns, name in view.steps]
    lines = [
        Text.assemble(("✓ ", "fits"), f"{words:<{_STEP_WIDTH}}", (format_duration((end - begin) / 1e9), "quiet"))
        for (begin, words), (end, _) in itertools.pairwise(begins)
    ]
    current = view.preparing or (begins[-1][1] if begins else PHASE_WORDS[""])
    lines.append(Text.assemble(("▸ ", "answer"), safe(f"{current} …")))
    theory = view.theory_bytes
    predicted = "" if theory is None else f": predicted to peak at {format_bytes(theory)} above what is there by then"
    return [*lines, safe(f"· the load{predicted}", "quiet")]


def title(view: RunView, name: str, *, waits: bool) -> Text:
    """A run in a few words, for the frame of its panel.

    Args:
        view: the run.
        name: what it is called.
        waits: it will be run, if it has not been.
    """
    if view.result is not None:
        peak, outcome = view.result["peak"], view.result["outcome"]
        at = "" if peak["rss_bytes"] is None else f" {format_bytes(peak['rss_bytes'])}"
        if peak.get("vram_allocated_bytes"):  # the host's has no room beside it in a narrow panel
            at = f" {format_bytes(peak['vram_allocated_bytes'])} vram"
        if completed(view.result):
            return Text.assemble(safe(f"{name} "), ("✓", "fits"), at)
        return Text.assemble(
            safe(f"{name} "), ("✗", "trouble"), safe(f" {OUTCOME_WORDS.get(outcome, str(outcome))}{at}")
        )
    if not view.facts:
        return Text.assemble(safe(name), (" waits" if waits else " not run", "quiet"))
    if view.load_ns is None or not view.work_bytes:
        return safe(f"{name} … {PHASE_WORDS.get(view.phase, view.phase)}")
    return safe(f"{name} {min(100, 100 * view.done_bytes // view.work_bytes)} % {format_bytes(view.peak_bytes)}")


def provenance(view: RunView) -> Text:
    """What tells a run from others of its strategy: the checkpoint, when it began, and the page cache."""
    path, started = (view.facts.get("checkpoint") or {}).get("path"), (view.facts.get("started") or {}).get("wall")
    cache = None if view.result is None else view.result["cache"]["state"]
    parts = [
        shown(str(path).rstrip("/").rpartition("/")[2], _NAME_LIMIT) if path else "",
        format_moment(started)[_YEAR:] if started else "",
        cache or "",
    ]
    return safe(_SEPARATOR.join(filter(None, parts)), "quiet")
