from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from header_checkpoints import checkpoint_of, headers_of

from meminspect.analysis.advice import better_than
from meminspect.analysis.plan import make_plan
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.architectures import ARCHITECTURES
from meminspect.capture.records import Operation, Pool
from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture
def task(tmp_path: Path) -> LoadTask:
    checkpoint = read_checkpoint(tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny"))
    return task_for(checkpoint, LoadOptions())


def test_given_a_strategy_that_is_not_the_recommended_one_then_that_one_is_told_with_all_that_is_known(
    task: LoadTask,
) -> None:
    recommendation = make_plan(task, GIB).recommendation
    best = STRATEGIES[recommendation.strategy_id or ""]

    assert better_than("naive", task, GIB) == {
        "strategy": best.id,
        "why": recommendation.why,
        "peak": asdict(best.theory(task).peak),
        "peak_rss_bytes": best.theory(task).peak_rss_bytes,
        "recipe": best.recipe(task),
    }


def test_given_the_recommended_strategy_then_nothing_is_better(task: LoadTask) -> None:
    best = make_plan(task, GIB).recommendation.strategy_id
    assert best is not None
    assert better_than(best, task, GIB) is None


def test_given_a_strategy_that_ends_like_the_recommended_one_then_it_is_not_told_to_change(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = make_plan(task, GIB).recommendation.strategy_id or ""
    monkeypatch.setitem(STRATEGIES, "twin", replace(STRATEGIES[best], id="twin"))  # type: ignore[arg-type]
    assert better_than("twin", task, GIB) is None


@pytest.mark.parametrize(("more", "told"), [(100, False), (10, True)])
def test_given_a_hundredth_more_than_the_recommended_one_takes_then_that_is_no_reason_to_change(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch, more: int, told: bool
) -> None:
    best = STRATEGIES[make_plan(task, GIB).recommendation.strategy_id or ""]
    step = next(step for step in best.ledger(task) if step.nbytes)
    held = max(best.theory(task).peak.heap_bytes or 0, best.theory(task).peak.file_bytes or 0)
    beyond = step._replace(operation=Operation.TOUCH, pool=Pool.FILE, nbytes=held // more)
    twin = replace(best, id="twin", ledger=lambda task: iter([beyond, *best.ledger(task)]))
    monkeypatch.setitem(STRATEGIES, "twin", twin)  # type: ignore[arg-type]

    assert (better_than("twin", task, GIB) is not None) == told


def test_given_options_that_no_strategy_takes_then_nothing_is_better(task: LoadTask) -> None:
    elsewhere = replace(task, options=LoadOptions(device="abacus"))
    assert better_than("naive", elsewhere, GIB) is None


def test_given_a_budget_that_changes_the_choice_then_the_advice_follows_it(task: LoadTask) -> None:
    # given a strategy that needs heap, and a mapping that the machine refuses
    told = better_than("naive", task, GIB, largest_mapping_bytes=1)
    assert told is not None
    assert not STRATEGIES[told["strategy"]].maps(task)
    assert better_than("naive", task, PROCESS_BYTES, largest_mapping_bytes=1) is None, "nothing fits"


def test_given_a_strategy_that_loads_another_model_then_only_those_that_load_the_same_are_better(
    task: LoadTask,
) -> None:
    told = better_than("quantize-after", task, GIB)
    assert told is not None
    assert told["strategy"] == "lazy-quantize"
    assert "as it is stored" not in told["why"]
    assert better_than("lazy-quantize", task, GIB) is None
    assert better_than("adapters", task, GIB) is None


def test_another_model_than_the_checkpoints_is_recommended_only_where_nothing_else_fits() -> None:
    # given devices with room for the model, for the quantised one only, and for neither
    family = ARCHITECTURES["gpt2"]
    gpt2 = family.architecture(family.for_parameters(300_000_000, "teaching"), "teaching")
    there = task_for(checkpoint_of([headers_of(gpt2, "float16")], "torch"), LoadOptions(device="cuda"))
    needs = {id_: STRATEGIES[id_].theory(there).peak.vram_allocated_bytes or 0 for id_ in ("lazy", "lazy-quantize")}
    assert needs["lazy-quantize"] < needs["lazy"]
    chosen = [make_plan(there, GIB, vram).recommendation for vram in (GIB, needs["lazy"] - 1, 1)]

    assert [one.strategy_id is not None and STRATEGIES[one.strategy_id].changes for one in chosen] == [
        False,
        True,
        False,
    ]
    assert chosen[1].strategy_id == "lazy-quantize"
    assert chosen[1].why.endswith("; nothing fits that loads the model as it is stored")
    assert chosen[2].strategy_id is None
