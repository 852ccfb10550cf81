"""Several runs of each strategy: their medians and spreads, and which differences are more than noise.

Identical loads differ by a fifth, so that single times say little. Strategies take turns, hence two are compared round
by round: what slows the machine for a while slows both, and falls out of their ratio.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.analysis.script_words import floor_bytes, floor_name
from meminspect.analysis.words import ONE_RUN_NOISE, OUTCOME_WORDS, completed, model, what_runs_short
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meminspect.analysis.words import Run

__all__ = ["Difference", "Group", "Spread", "comparison", "difference", "groups", "repeated", "sentence", "summary"]

_FEW: Final = 5  # rounds; below this even unanimity is likely to be chance
_CHANCE: Final = 0.1  # of a two-sided sign test: 5 of 5 rounds, or 9 of 10


class Spread(NamedTuple):
    """A figure over several runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of values; None where there are none."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def text(self, shown: Callable[[float], str]) -> str:
        """The median and, where it can be told apart, the range: ``1.50 s (1.40–1.90)``."""
        median, least, most = (shown(value) for value in self)
        if least == most:
            return median
        unit = f" {median.partition(' ')[2]}"
        if unit.strip() and least.endswith(unit) and most.endswith(unit):
            least, most = least.removesuffix(unit), most.removesuffix(unit)
        return f"{median} ({least}–{most})"

    def seconds(self) -> str:
        """Of times, in the unit of the longest."""
        return self.text(lambda time: format_duration(time, like=self.most))


@dataclass(frozen=True)
class Group:
    """The runs of one strategy, at least one."""

    strategy: str
    runs: tuple[Run, ...]

    @property
    def good(self) -> list[Run]:
        """Those that came to their end with the right tensors: figures are of these."""
        return [run for run in self.runs if completed(run) and not run["tensors"]["mismatched"]]

    @property
    def outcomes(self) -> str:
        """How they ended, counted: ``3 × completed, 2 × OOM-killed``."""
        counts = Counter(OUTCOME_WORDS.get(run["outcome"], str(run["outcome"])) for run in self.runs)
        return ", ".join(f"{count} × {word}" for word, count in counts.items())

    @property
    def typical(self) -> Run:
        """The run that stands for all: a good one with the median peak, or else the first that was no good."""
        ranked = sorted(
            (run for run in self.good if run["peak"]["rss_bytes"] is not None), key=lambda run: run["peak"]["rss_bytes"]
        )
        return ranked[(len(ranked) - 1) // 2] if ranked else self.runs[0]

    def peak(self, key: str) -> Spread | None:
        """The spread of a peak, in bytes."""
        return Spread.of([run["peak"][key] for run in self.good if run["peak"][key] is not None])

    def time(self, key: str) -> Spread | None:
        """The spread of a time, in seconds."""
        return Spread.of([run[key] for run in self.good if run[key] is not None])


class Difference(NamedTuple):
    """How much longer one strategy takes to be resident than another, by the rounds in which both came to their end."""

    ratio: float  # the median of the rounds' ratios
    noise: float  # how far a round's ratio lies from it at most, either way, as a fraction
    rounds: int
    agreeing: int  # rounds in which the same one took longer
    certain: bool

    def text(self) -> str:
        """In words, with as many digits as rounds give."""
        percent = f"{100 * abs(self.ratio - 1):.0f} %"
        if not self.certain:
            return f"a difference of {percent}, which is within the noise (±{100 * self.noise:.0f} %)"
        words = f"{percent} {'longer' if self.ratio > 1 else 'shorter'}"
        if self.ratio >= 2:
            words = f"{self.ratio:.1f} × as long"
        return f"{words} in {self.agreeing} of {self.rounds} rounds"


def groups(runs: Sequence[Run]) -> list[Group]:
    """Runs by strategy, in the order in which they first ran."""
    by_strategy: dict[str, list[Run]] = {}
    for run in runs:
        by_strategy.setdefault(run["strategy"], []).append(run)
    return [Group(strategy, tuple(same)) for strategy, same in by_strategy.items()]


def repeated(runs: Sequence[Run]) -> bool:
    """Whether these are the rounds of one command, with more than one of some strategy."""
    places = [(run["strategy"], run["repeat"]["index"]) for run in runs]
    several = len({strategy for strategy, _ in places}) < len(places)
    return several and len(set(places)) == len(places) and all((run["repeat"]["of"] or 1) > 1 for run in runs)


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """`summary` of the JSON contract: an object a strategy, its figures of the runs that completed and loaded right."""
    return [
        {
            "strategy": group.strategy,
            "runs": len(group.runs),
            "completed": sum(map(completed, group.runs)),
            **{f"peak_{key}": _document(group.peak(key), whole=True) for key in ("rss_bytes", "heap_bytes")},
            **{key: _document(group.time(key)) for key in ("returned_s", "resident_s")},
        }
        for group in groups(runs)
    ]


def _document(spread: Spread | None, *, whole: bool = False) -> dict[str, float | None]:
    values: Sequence[float | None] = (None, None, None) if spread is None else spread
    names = ("median", "min", "max")
    return {
        name: round(value) if whole and value is not None else value for name, value in zip(names, values, strict=True)
    }


def difference(first: Group, second: Group) -> Difference | None:
    """How much longer the second takes than the first; None where they share no round."""
    times = [
        {run["repeat"]["index"]: run["resident_s"] for run in group.good if run["resident_s"]}
        for group in (first, second)
    ]
    ratios = [times[1][index] / times[0][index] for index in times[0].keys() & times[1].keys()]
    if not ratios:
        return None
    ratio = statistics.median(ratios)
    noise = max(max(one / ratio, ratio / one) for one in ratios) - 1
    longer, shorter = sum(one > 1 for one in ratios), sum(one < 1 for one in ratios)
    if len(ratios) >= _FEW:
        certain = _by_chance(max(longer, shorter), longer + shorter) <= _CHANCE
    else:
        noise = max(noise, ONE_RUN_NOISE)
        certain = len(ratios) in (longer, shorter) and abs(math.log(ratio)) > math.log1p(noise)
    return Difference(ratio, noise, len(ratios), longer if ratio >= 1 else shorter, certain)


def _by_chance(most: int, rounds: int) -> float:
    """How likely tosses of a coin are to agree so often or more: a two-sided sign test."""
    so_many = sum(math.comb(rounds, count) for count in range(most, rounds + 1))
    return min(1.0, 2 * so_many / float(1 << rounds))


def sentence(group: Group) -> str:
    """What the runs of a strategy came to, in words."""
    words = f"{group.strategy}: {group.outcomes}"
    peak, floor = group.peak("rss_bytes"), floor_bytes(group.typical)
    if peak is not None:
        words += f"; peak {peak.text(format_bytes)}"
        of = floor_name(group.typical) or model(group.typical["theory"])
        words += f", {peak.median / floor:.2f} × {of}" if floor else ""
    for key in ("returned_s", "resident_s"):
        time = group.time(key)
        if time is not None:
            words += f"; {key.removesuffix('_s')} after {time.seconds()}"
    wrong = sum(bool(run["tensors"]["mismatched"]) for run in group.runs)
    if wrong:
        words += f"; in {wrong} of them tensors differ from the checkpoint"
    said: dict[str, str] = {}  # one message an outcome: their figures differ by a little, what they say does not
    for run in group.runs:
        if run["message"]:
            said.setdefault(run["outcome"], run["message"])
    return "; ".join([words, *said.values()])


def comparison(runs: Sequence[Run]) -> list[str]:
    """Which strategy to take, a statement each; what took least heap first, and then times against the soonest."""
    found = [group for group in groups(runs) if group.peak("rss_bytes") is not None]
    if len(found) < 2:
        return []
    return [_least_memory(found), *_times(found)]


def _least_memory(found: Sequence[Group]) -> str:
    pool, key = what_runs_short(run["peak"] for group in found for run in group.good)
    medians = {group.strategy: spread.median for group in found if (spread := group.peak(key))}
    shown = {strategy: format_bytes(nbytes) for strategy, nbytes in medians.items()}
    thrifty = min(medians, key=lambda strategy: medians[strategy])
    others = [strategy for strategy in medians if strategy != thrifty and shown[strategy] == shown[thrifty]]
    words = f"{thrifty} took least {pool}, {shown[thrifty]}"
    return f"{words}, as did {' and '.join(others)}" if others else words


def _times(found: Sequence[Group]) -> list[str]:
    timed = sorted(
        ((spread.median, group, spread.seconds()) for group in found if (spread := group.time("resident_s"))),
        key=lambda one: one[0],
    )
    if len(timed) < 2:
        return []
    _, soonest, its_time = timed[0]
    against = [(group, time, difference(soonest, group)) for _, group, time in timed[1:]]
    alone = all(differs is not None and differs.certain for _, _, differs in against)
    lines = [f"{soonest.strategy} was resident soonest{'' if alone else ' by its median'}: {its_time}"]
    for group, time, differs in against:
        how = "no round in common" if differs is None else differs.text()
        lines.append(f"{group.strategy}: {time}, {how}")
    for (one, _, _), (other, _, _) in itertools.pairwise(against):
        differs = difference(one, other)
        if differs is not None and not differs.certain:
            lines.append(f"{one.strategy} and {other.strategy}: {differs.text()}")
    return lines
