"""What is known before anything is loaded, for the app as for `meminspect plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meminspect.analysis.describe import theory_document
from meminspect.analysis.plan import make_plan
from meminspect.analysis.prospect import prospect_of
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.checkpoint import read_checkpoint
from meminspect.cli import main
from meminspect.sampling.machine import Machine
from meminspect.sampling.nvml import Gpu
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import tiny_checkpoint
from meminspect.units import use_decimal

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.analysis.plan import Plan
    from meminspect.checkpoint import Checkpoint

GIB = 1 << 30
GPU = Gpu(index=0, name="H100", uuid=None, total_bytes=80 * GIB, free_bytes=79 * GIB, used_bytes=GIB, unified=False)
MACHINE = Machine(24 * GIB, 20 * GIB, 8 * GIB, 6 * GIB, 0, (GPU,), None, "6.1", None, largest_mapping_bytes=24 * GIB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")


@pytest.fixture
def checkpoint(path: Path) -> Checkpoint:
    return read_checkpoint(path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that does not change between two looks at it."""
    monkeypatch.setattr("meminspect.analysis.subject.read_machine", lambda: MACHINE)
    return MACHINE


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    """A plan's rows as the contract has them."""
    return [
        {
            "strategy": row.strategy.id,
            "available": row.why_not is None,
            "why_not": row.why_not,
            "verdict": row.verdict,
            "theory": None if row.theory is None else theory_document(row.theory),
        }
        for row in plan.rows
    ]


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(dtype="float32", init_dtype="float16")])
@pytest.mark.usefixtures("machine")
def test_the_app_sees_the_numbers_that_the_plan_verb_prints(
    checkpoint: Checkpoint, path: Path, options: LoadOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    # given what the command line says
    typed = ["--init-dtype", options.init_dtype, *(["--dtype", options.dtype] if options.dtype else [])]
    assert main(["plan", "--ckpt", str(path), *typed, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    # when
    plan = prospect_of(checkpoint, options).plan
    # then
    assert printed["strategies"] == rows_of(plan)
    assert printed["budgets"] == {"ram_bytes": plan.ram_bytes, "vram_bytes": plan.vram_bytes}
    assert (printed["recommended"], printed["why"]) == plan.recommendation


def test_without_wishes_it_plans_for_what_this_machine_has_left(checkpoint: Checkpoint, machine: Machine) -> None:
    prospect = prospect_of(checkpoint, LoadOptions())
    assert (prospect.plan.ram_bytes, prospect.plan.vram_bytes) == (6 * GIB, 79 * GIB)
    assert prospect.subject.machine is machine
    assert prospect.subject.checkpoint is checkpoint
    assert prospect.plan == make_plan(
        task_for(checkpoint, LoadOptions()), 6 * GIB, 79 * GIB, largest_mapping_bytes=24 * GIB
    )


@pytest.mark.usefixtures("machine")
def test_a_limit_lowers_the_budget_and_never_raises_it(checkpoint: Checkpoint) -> None:
    assert prospect_of(checkpoint, LoadOptions(), limit_bytes=GIB).plan.ram_bytes == GIB
    assert prospect_of(checkpoint, LoadOptions(), limit_bytes=7 * GIB).plan.ram_bytes == 6 * GIB
    assert prospect_of(checkpoint, LoadOptions(), ram_bytes=GIB, limit_bytes=2 * GIB).plan.ram_bytes == GIB


@pytest.mark.usefixtures("machine")
def test_given_a_limit_then_theory_is_what_can_be_resident_and_the_verdict_that_of_what_is_wanted(
    checkpoint: Checkpoint,
) -> None:
    free, limited = (
        prospect_of(checkpoint, LoadOptions(), limit_bytes=limit).plan for limit in (None, PROCESS_BYTES + 4096)
    )
    whole, mapped = (next(row for row in plan.rows if row.strategy.id == "mmap-assign") for plan in (free, limited))
    assert whole.theory is not None
    assert mapped.theory is not None
    assert (whole.theory.peak.file_bytes or 0) > 4096 == mapped.theory.peak.file_bytes == mapped.theory.peak_rss_bytes
    assert mapped.verdict == "tight"
    assert "read from disk over and over" in limited.recommendation.why


@pytest.mark.usefixtures("machine")
def test_given_a_limit_below_what_a_process_takes_then_nothing_fits(checkpoint: Checkpoint) -> None:
    plan = prospect_of(checkpoint, LoadOptions(), limit_bytes=PROCESS_BYTES - 1).plan
    assert {row.verdict for row in plan.rows if row.theory is not None} == {"does_not_fit"}
    assert plan.recommendation.strategy_id is None


def test_another_machines_memory_is_not_bound_by_this_ones_kernel(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a kernel that lets nobody map anything
    machine = replace(MACHINE, largest_mapping_bytes=0)
    monkeypatch.setattr("meminspect.analysis.subject.read_machine", lambda: machine)
    mapping = [name for name, strategy in STRATEGIES.items() if strategy.maps(task_for(checkpoint, LoadOptions()))]
    assert mapping

    def unavailable(ram_bytes: int | None) -> list[str]:
        plan = prospect_of(checkpoint, LoadOptions(), ram_bytes=ram_bytes, vram_bytes=5).plan
        return [row.strategy.id for row in plan.rows if "maps a file" in (row.why_not or "")]

    assert set(unavailable(None)) - set(unavailable(8 * GIB)) == set(mapping)


def test_given_no_gpu_then_its_memory_is_unknown_unless_it_is_named(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(MACHINE, gpus=())
    monkeypatch.setattr("meminspect.analysis.subject.read_machine", lambda: machine)
    assert prospect_of(checkpoint, LoadOptions()).plan.vram_bytes is None
    assert prospect_of(checkpoint, LoadOptions(), vram_bytes=5).plan.vram_bytes == 5


@pytest.mark.usefixtures("machine")
def test_sizes_are_written_in_the_units_that_are_asked_for(checkpoint: Checkpoint) -> None:
    def why() -> str:
        return prospect_of(checkpoint, LoadOptions()).plan.recommendation.why

    assert "KiB" in why()
    use_decimal(True)
    assert "KiB" not in why()
    assert "kB" in why()
