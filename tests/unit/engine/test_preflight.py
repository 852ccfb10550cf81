from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.preflight import refusal
from meminspect.sampling.machine import Machine
from meminspect.sampling.nvml import Gpu
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

NAIVE = STRATEGIES["naive"]
A_GPU = Gpu(0, "A GPU", "GPU-1", 8 << 30, 8 << 30, 0, unified=False)


@pytest.fixture
def task(tmp_path: Path) -> LoadTask:
    return task_for(
        read_checkpoint(tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")), LoadOptions()
    )


def machine(usable_bytes: int) -> Machine:
    return Machine(1 << 40, usable_bytes, None, None, 0, (), None, "6.1", None)


def refused(task: LoadTask, usable_bytes: int, limit_bytes: int | None, *, force: bool = False) -> bool:
    theory = NAIVE.theory(task)
    said = refusal(NAIVE, task, theory, machine(usable_bytes), force=force, limit_bytes=limit_bytes)
    return said is not None


def test_given_too_little_when_nothing_confines_the_run_then_it_is_refused_unless_forced(task: LoadTask) -> None:
    assert refused(task, PROCESS_BYTES, None)
    assert not refused(task, PROCESS_BYTES, None, force=True)
    assert not refused(task, 2 * PROCESS_BYTES, None)


def test_given_a_limit_that_the_machine_has_then_a_run_that_will_not_fit_into_it_may_start(task: LoadTask) -> None:
    assert not refused(task, PROCESS_BYTES, PROCESS_BYTES)


def test_given_a_limit_beyond_what_the_machine_has_then_it_protects_nobody(task: LoadTask) -> None:
    assert refused(task, PROCESS_BYTES, PROCESS_BYTES + 1)


def test_given_a_limit_then_what_no_memory_helps_against_is_refused_all_the_same(task: LoadTask) -> None:
    elsewhere = replace(task, options=LoadOptions(device="abacus"))
    assert refused(elsewhere, 2 * PROCESS_BYTES, PROCESS_BYTES)


@pytest.mark.parametrize(
    ("gpus", "torch_version", "why_not"),
    [
        ((), "2.13.0", "this machine has no CUDA device that could be used"),
        ((A_GPU,), "2.13.0+cpu", "the torch that is installed, 2.13.0+cpu, is built without CUDA"),
        ((A_GPU,), "2.13.0", None),
    ],
)
def test_given_nothing_to_load_to_then_a_run_on_a_device_is_refused_and_the_plan_recommended(
    task: LoadTask, gpus: tuple[Gpu, ...], torch_version: str, why_not: str | None
) -> None:
    here = replace(machine(1 << 40), gpus=gpus, torch_version=torch_version)
    on_device = replace(task, options=LoadOptions(device="cuda"))

    said = refusal(NAIVE, on_device, NAIVE.theory(on_device), here, force=True)

    expected = None if why_not is None else f"{why_not}: meminspect plan --device cuda says what it would take"
    assert said == expected
