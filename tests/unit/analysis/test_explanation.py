from __future__ import annotations

from dataclasses import replace

import pytest

from meminspect.analysis.explanation import Stage, explanation_of
from meminspect.capture.records import Operation, Pool
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import imagined_checkpoint
from meminspect.theory.ledger import Item, Step

TASK = task_for(imagined_checkpoint(), LoadOptions())


def stages_of(*steps: Step, task: LoadTask = TASK) -> tuple[Stage, ...]:
    return explanation_of(replace(STRATEGIES["naive"], ledger=lambda _: iter(steps)), task).stages


def made(phase: str, nbytes: int, pool: Pool = Pool.HEAP) -> Step:
    return Step(phase, Operation.MATERIALISE, pool, Item.FLOOR, "tensor", nbytes)


def gone(phase: str, nbytes: int, pool: Pool = Pool.HEAP) -> Step:
    return made(phase, nbytes, pool)._replace(operation=Operation.RELEASE)


def test_a_stage_holds_what_was_there_when_it_held_most() -> None:
    assert stages_of(made("build", 5), made("read", 3), gone("read", 4), made("copy", 1)) == (
        Stage(("build",), 1, 0, {Pool.HEAP: 5}),
        Stage(("read",), 1, 5, {Pool.HEAP: 8}),
        Stage(("copy",), 1, 8, {Pool.HEAP: 5}),
    )


def test_phases_that_take_turns_are_one_stage_and_a_phase_that_comes_back_alone_is_one_of_its_own() -> None:
    turns = [step for _ in range(3) for step in (made("read", 2), made("copy", 1), gone("copy", 2))]
    stages = stages_of(made("read", 1), made("build", 1), *turns)
    assert [(stage.phases, stage.turns, stage.begin_bytes) for stage in stages] == [
        (("read",), 1, 0), (("build",), 1, 1), (("read", "copy"), 3, 2),
    ]  # fmt: skip
    assert stages[-1].peak == {Pool.HEAP: 2 + 3 * 1 + 2}


def test_the_device_holds_most_at_a_moment_of_its_own() -> None:
    (stage,) = stages_of(made("move", 9), made("move", 4, Pool.VRAM), gone("move", 9), made("move", 4, Pool.VRAM))
    assert stage.peak == {Pool.HEAP: 9, Pool.VRAM: 8}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_strategy_has_a_short_story_whose_peak_is_theorys(strategy: str, device: str) -> None:
    found = STRATEGIES[strategy.id]  # type: ignore[attr-defined]
    task = task_for(imagined_checkpoint(per_tensor=found.id == "per-tensor-files"), LoadOptions(device, "bfloat16"))
    if found.id.startswith("fabric-"):  # which takes a pickle
        pytest.skip("no pickle is imagined")
    assert replace(found, packages=()).why_not(task) is None

    explanation, theory = explanation_of(found, task), found.theory(task)

    assert 0 < len(explanation.stages) <= 6
    host = max(
        sum(nbytes for pool, nbytes in stage.peak.items() if pool is not Pool.VRAM) for stage in explanation.stages
    )
    assert host == theory.peak_rss_bytes
    assert bool(explanation.vram_bytes) == (device == "cuda")
    assert (
        max(column.total_bytes for column in explanation.series.columns(80, explanation.work_bytes) if column) == host
    )
