from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from meminspect.analysis.prospect import prospect_of
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.checkpoint import read_checkpoint
from meminspect.engine import preflight
from meminspect.engine.preflight import refusal, require_device
from meminspect.errors import UsageError
from meminspect.sampling.interpreter import Interpreter
from meminspect.sampling.machine import Machine
from meminspect.sampling.nvml import Gpu
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

NAIVE = STRATEGIES["naive"]
A_GPU = Gpu(0, "A GPU", "GPU-1", 8 << 30, 8 << 30, 0, unified=False)

AN_ARC = Gpu(0, "Intel GPU", None, None, None, None, unified=False, maker="Intel")
AN_M4 = Gpu(0, "Apple silicon", None, None, None, None, unified=True, maker="Apple")


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


NO_DRIVER = "no NVIDIA driver (libnvidia-ml.so.1 not found)"
OLD = Interpreter("/opt/python", "3.12.1", {"torch": "2.4.0+xpu"})
THEIRS = Interpreter("/opt/python", "3.12.1", {"torch": "2.5.0+cpu"})


@pytest.mark.parametrize(
    ("options", "gpus", "torch_version", "missing"),
    [
        (LoadOptions(device="cuda"), (), "2.13.0", f"there is no cuda here: {NO_DRIVER}"),
        (
            LoadOptions(device="cuda"), (A_GPU,), "2.13.0+cpu",
            "nothing can be loaded to cuda: the worker's torch, 2.13.0+cpu, is built without CUDA",
        ),
        (
            LoadOptions(device="cuda", interpreter=THEIRS), (A_GPU,), "2.13.0",
            "nothing can be loaded to cuda: the worker's torch, 2.5.0+cpu, is built without CUDA",
        ),
        (LoadOptions(device="cuda:1"), (A_GPU,), "2.13.0", "there is no cuda:1 here: CUDA sees 1 GPU"),
        (LoadOptions(device="cuda:0"), (A_GPU,), "2.13.0", None),
        (LoadOptions(device="xpu"), (A_GPU,), "2.13.0+xpu", "there is no xpu here: no Intel GPU (/sys/class/drm)"),
        (
            LoadOptions(device="xpu:1"), (AN_ARC,), "2.13.0+cu130",
            "nothing can be loaded to xpu:1: the worker's torch, 2.13.0+cu130, is built without XPU",
        ),
        (LoadOptions(device="xpu"), (AN_ARC,), "2.13.0+xpu", None),
        (LoadOptions(device="xpu"), (AN_ARC,), "2.13.0a0", None),
        (
            LoadOptions(device="xpu", interpreter=OLD), (AN_ARC,), "2.13.0",
            "nothing can be loaded to xpu: the environment of --python has torch 2.4.0+xpu, which counts no memory",
        ),
        (
            LoadOptions(device="cuda"), (A_GPU,), "2.13.0+xpu",
            "nothing can be loaded to cuda: the worker's torch, 2.13.0+xpu, is built without CUDA",
        ),
        (LoadOptions(device="mps"), (A_GPU,), "2.13.0", "there is no mps here: mps is Metal on Apple silicon, and "),
        (LoadOptions(device="mps"), (AN_M4,), "2.13.0", None),
        (LoadOptions(), (), "2.13.0+cpu", None),
    ],
)  # fmt: skip
def test_given_nothing_to_load_to_then_it_is_said_with_the_fix_and_no_run_begins(
    task: LoadTask, options: LoadOptions, gpus: tuple[Gpu, ...], torch_version: str, missing: str | None
) -> None:
    reasons = {} if gpus else {"gpus": NO_DRIVER}
    here = replace(machine(1 << 40), gpus=gpus, torch_version=torch_version, reasons=reasons)
    on_device = replace(task, options=options)

    said = refusal(NAIVE, on_device, NAIVE.theory(on_device), here, force=True)

    if missing is None:
        assert said is None
        require_device(on_device, here)
        return
    with pytest.raises(UsageError, match=re.escape(missing)) as raised:
        require_device(on_device, here)
    assert str(said).startswith(missing)
    assert str(said).endswith(f": {raised.value.hint}")
    assert f"meminspect plan --device {options.device} says what it would take" in said


@pytest.mark.parametrize(
    ("gpu", "usable", "words"),
    [
        (replace(A_GPU, free_bytes=1 << 10), 1 << 40, "of cuda's memory, of which 1.00 KiB is free"),
        (
            replace(A_GPU, free_bytes=None, unified=True),
            PROCESS_BYTES + (1 << 20),
            "of the memory that host and device share",
        ),
        (A_GPU, PROCESS_BYTES, "of heap beside the process's own"),
        (A_GPU, 1 << 40, None),
        (replace(A_GPU, free_bytes=None, unified=True), 1 << 40, None),
    ],
)
def test_given_a_load_to_a_gpu_when_it_is_too_small_then_it_is_said_which_memory_is(
    task: LoadTask, gpu: Gpu, usable: int, words: str | None
) -> None:
    on_gpu = replace(task, options=LoadOptions(device="cuda"))
    here = replace(machine(usable), gpus=(gpu,))

    said = refusal(NAIVE, on_gpu, NAIVE.theory(on_gpu), here, force=False)

    assert (said is None) == (words is None)
    assert words is None or words in str(said)


@pytest.mark.parametrize("driver", [True, False])
def test_given_a_torch_for_rocm_then_its_gpus_are_asked_for_where_amd_s_driver_has_them(
    task: LoadTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: bool
) -> None:
    gpus = tmp_path / "kfd"
    monkeypatch.setattr(preflight, "_AMD_GPUS", gpus)
    on_gpu, here = (
        replace(task, options=LoadOptions(device="cuda")),
        replace(machine(1 << 40), torch_version="2.13.0+rocm7.0"),
    )
    if driver:
        gpus.touch()
        require_device(on_gpu, here)
        return

    with pytest.raises(UsageError, match="no AMD GPU"):
        require_device(on_gpu, here)


@pytest.mark.parametrize(
    ("options", "gpu"),
    [
        (LoadOptions(device="mps"), AN_M4),
        (
            LoadOptions(device="cuda", interpreter=Interpreter("/opt/python", "3.12.1", {"torch": "2.9.0+rocm6.4"})),
            Gpu(0, "AMD GPU", None, None, None, None, unified=True, maker="AMD"),
        ),
        (LoadOptions(device="xpu"), replace(AN_ARC, unified=True)),
    ],
)
def test_given_a_gpu_without_memory_of_its_own_then_host_and_device_are_planned_as_one_pool(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch, options: LoadOptions, gpu: Gpu
) -> None:
    needed = NAIVE.theory(replace(task, options=options)).peak
    # Enough for either and not for both: heap, and what is on the device.
    room = max(needed.heap_bytes or 0, needed.vram_allocated_bytes or 0) + 1
    here = replace(machine(PROCESS_BYTES + room), gpus=(gpu,))
    monkeypatch.setattr("meminspect.analysis.subject.read_machine", lambda: here)

    plan = prospect_of(task.checkpoint, options).plan

    assert plan.shared
    assert [row.verdict for row in plan.rows if row.strategy is NAIVE] == ["does_not_fit"]


def test_given_no_room_for_what_is_written_to_a_temporary_folder_then_it_is_refused_unless_forced(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = replace(NAIVE, scratch_bytes=lambda _: 2 << 30)
    theory = NAIVE.theory(task)
    free = 2 << 30

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert refusal(writing, task, theory, machine(2 * PROCESS_BYTES), force=False) is None

    free -= 1
    said = refusal(writing, task, theory, machine(2 * PROCESS_BYTES), force=False, limit_bytes=PROCESS_BYTES)
    assert said is not None
    assert said.startswith("it writes 2.00 GiB to ")
    assert refusal(writing, task, theory, machine(2 * PROCESS_BYTES), force=True) is None


def test_given_no_temporary_folder_then_only_what_writes_to_one_is_refused(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(preflight.tempfile, "gettempdir", none)
    writing, theory, roomy = replace(NAIVE, scratch_bytes=lambda _: 1), NAIVE.theory(task), machine(2 * PROCESS_BYTES)

    said = refusal(writing, task, theory, roomy, force=False)

    assert said is not None
    assert "TMPDIR" in said
    assert refusal(NAIVE, task, theory, roomy, force=False) is None
