"""What a strategy does, stage by stage, by its ledger: what is explained and drawn before anything is loaded."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect.analysis.reduction import Timeline
from meminspect.capture.records import Operation, Pool
from meminspect.theory.host_allocator import PinnedAllocator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.analysis.reduction import Series
    from meminspect.strategies import LoadTask, Strategy
    from meminspect.theory.ledger import Step

__all__ = ["Explanation", "Stage", "explanation_of"]

_POOLS: Final = (Pool.HEAP, Pool.FILE, Pool.PINNED, Pool.VRAM)
_IDLE: Final = (Operation.ASSIGN, Operation.RELEASE)  # take no time that a picture could show


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps of one phase, or of a few that take turns."""

    phases: tuple[str, ...]  # in the order of their first turn
    turns: int  # how often the first of them comes
    begin_bytes: int  # the work that was done before
    peak: dict[Pool, int]  # above the baseline, when all together were highest; those that held nothing left out


@dataclass(frozen=True, slots=True)
class Explanation:
    """A ledger as a story. Work, the bytes that are moved, stands for time: nothing has been measured."""

    stages: tuple[Stage, ...]
    series: Series  # its nanoseconds are bytes of work
    work_bytes: int
    vram_bytes: int  # the highest that the device's memory goes


def explanation_of(strategy: Strategy, task: LoadTask) -> Explanation:
    """Follow a strategy's ledger once."""
    timeline, live, page_locked = Timeline(), dict.fromkeys(_POOLS, 0), PinnedAllocator()
    stages: list[Stage] = []
    work = 0
    timeline.add(0, 0, 0, 0, 0)
    for phase, steps in itertools.groupby(strategy.steps(task), key=lambda step: step.phase):
        begin, host, device = work, dict(live), live[Pool.VRAM]
        for step in steps:
            work += _work_bytes(step)
            if step.pool is Pool.PINNED:
                page_locked.apply(step)
                live[Pool.PINNED] = page_locked.reserved_bytes
            else:
                live[step.pool] = live.get(step.pool, 0) + step.delta_bytes
            timeline.add(work, *(live[pool] for pool in _POOLS))
            device = max(device, live[Pool.VRAM])
            if _host_bytes(live) > _host_bytes(host):
                host = dict(live)
        held = {**host, Pool.VRAM: device}
        stages.append(Stage((phase,), 1, begin, {pool: held[pool] for pool in _POOLS if held[pool]}))
    vram = max((stage.peak.get(Pool.VRAM, 0) for stage in stages), default=0)
    return Explanation(tuple(_by_turns(stages)), timeline.frozen(), work, vram)


def _host_bytes(held: dict[Pool, int]) -> int:
    return sum(nbytes for pool, nbytes in held.items() if pool is not Pool.VRAM)


def _work_bytes(step: Step) -> int:
    mapped = step.operation is Operation.MATERIALISE and step.pool in (Pool.FILE, Pool.NONE)
    return 0 if mapped or step.operation in _IDLE else step.nbytes


def _by_turns(stages: Sequence[Stage]) -> Iterator[Stage]:
    """Stages whose phases come again and again are one: a line for each of a thousand tensors explains nothing."""
    counts: dict[str, int] = {}
    for stage in stages:
        counts[stage.phases[0]] = counts.get(stage.phases[0], 0) + 1
    for repeats, group in itertools.groupby(stages, key=lambda stage: counts[stage.phases[0]] > 1):
        turns = list(group)
        if not repeats or len(turns) == 1:
            yield from turns
            continue
        phases = tuple(dict.fromkeys(stage.phases[0] for stage in turns))
        host = max((stage.peak for stage in turns), key=_host_bytes)
        device = max(stage.peak.get(Pool.VRAM, 0) for stage in turns)
        peak = {**host, Pool.VRAM: device} if device else host
        yield Stage(phases, sum(stage.phases[0] == phases[0] for stage in turns), turns[0].begin_bytes, peak)
