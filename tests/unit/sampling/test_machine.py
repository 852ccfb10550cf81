from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import platform
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil
import pytest
from sampling_processes import run_python

from meminspect.sampling import cgroups, interpreter, machine
from meminspect.sampling.interpreter import Interpreter
from meminspect.sampling.machine import Machine, read_machine
from meminspect.sampling.nvml import Gpu, NvmlOpening, open_nvml

if TYPE_CHECKING:
    from stubs import StubNvml

GIB = 1 << 30
NOT_SUPPORTED, DRIVER_NOT_LOADED, LOST = 3, 9, 15


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "open_nvml", lambda: NvmlOpening(None, "no NVIDIA driver"))


def meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.usefixtures("no_driver")
def test_given_this_machine_when_read_then_it_agrees_with_the_kernel():
    read = read_machine()

    assert read.ram_total_bytes == meminfo("MemTotal")
    assert read.ram_available_bytes == pytest.approx(meminfo("MemAvailable"), rel=0.2)
    assert read.memory_limit_bytes == cgroups.memory_limit_bytes()
    assert read.kernel == platform.release()
    assert read.thp in ("always", "madvise", "never", None)
    assert 0 < read.usable_bytes <= read.ram_total_bytes
    assert read.gpus == ()


def test_given_the_contract_when_documented_then_exactly_its_names_and_unknown_is_null():
    read = Machine(4 * GIB, 3 * GIB, None, None, 0, (), None, "6.1", None, reasons={"thp": "no such thing"})

    assert read.document() == {
        "ram_total_bytes": 4 * GIB,
        "ram_available_bytes": 3 * GIB,
        "memory_limit_bytes": None,
        "swap_free_bytes": 0,
        "gpus": [],
        "torch_version": None,
        "kernel": "6.1",
        "thp": None,
        "reasons": {"thp": "no such thing"},
    }


def test_given_a_gpu_that_tells_of_its_memory_when_asked_why_not_then_there_is_no_reason(stub_nvml: StubNvml):
    stub_nvml.gpu(0, used_bytes=GIB)
    stub_nvml.gpu(1, used_bytes=GIB)
    stub_nvml.fail("nvmlDeviceGetMemoryInfo", LOST, index=1)

    read = read_machine()

    assert read.why_no_vram("cuda:0") == ""
    assert "does not tell" in read.why_no_vram("cuda:1")
    assert read.why_no_vram("cuda:2") == "no NVIDIA GPU"


def test_given_no_readings_when_asked_why_then_the_reason_is_told(stub_nvml: StubNvml, monkeypatch: pytest.MonkeyPatch):
    assert read_machine().why_no_vram("cuda:0") == "no NVIDIA GPU"
    stub_nvml.gpu()
    stub_nvml.fail("nvmlDeviceGetMemoryInfo", NOT_SUPPORTED, index=0)
    assert "no memory of its own" in read_machine().why_no_vram("cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read_machine().why_no_vram("cuda:0") == "CUDA_VISIBLE_DEVICES hides every GPU"
    stub_nvml.fail("nvmlInit", DRIVER_NOT_LOADED)
    assert read_machine().why_no_vram("cuda:0") == "the NVIDIA driver is installed but not loaded"


@pytest.mark.parametrize("given_open", [True, False])
def test_given_gpus_when_read_then_they_are_listed_with_the_contracts_names(stub_nvml: StubNvml, *, given_open: bool):
    stub_nvml.gpu(0, name="NVIDIA A", total_bytes=80 * GIB, used_bytes=GIB)
    stub_nvml.gpu(1, name="NVIDIA GB10")
    stub_nvml.fail("nvmlDeviceGetMemoryInfo", 3, index=1)

    read = read_machine(open_nvml().nvml if given_open else None)

    assert read.document()["gpus"] == [
        {"name": "NVIDIA A", "total_bytes": 80 * GIB, "free_bytes": 79 * GIB, "unified": False, "maker": "NVIDIA"},
        {"name": "NVIDIA GB10", "total_bytes": None, "free_bytes": None, "unified": True, "maker": "NVIDIA"},
    ]


@pytest.mark.parametrize(
    ("available", "left", "usable"),
    [(3 * GIB, None, 3 * GIB), (3 * GIB, GIB, GIB), (GIB, 3 * GIB, GIB), (GIB, 0, 0)],
)
def test_given_ram_and_a_limit_when_asked_what_is_usable_then_the_tighter(
    available: int, left: int | None, usable: int
):
    limit = None if left is None else 8 * GIB
    assert Machine(64 * GIB, available, limit, left, 0, (), None, "6.1", None).usable_bytes == usable


@pytest.mark.usefixtures("no_driver")
def test_given_a_cgroup_with_a_limit_when_read_then_limit_and_room_are_both_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name, text in (("memory.max", GIB), ("memory.current", GIB // 2), ("memory.stat", "inactive_file 100")):
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(cgroups, "memory_group", lambda: cgroups.MemoryGroup(tmp_path, tmp_path, 2))

    read = read_machine()

    assert (read.memory_limit_bytes, read.usable_bytes) == (GIB, GIB // 2 + 100)


@pytest.mark.usefixtures("no_driver")
def test_given_torch_or_none_when_read_then_what_it_says_of_itself_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fresh = interpreter.torch_version.__wrapped__
    monkeypatch.setattr(machine, "torch_version", fresh)
    assert read_machine().torch_version == importlib.metadata.version("torch")

    # A build whose package is named without what it is for, as those of PyPI are.
    (tmp_path / "version.py").write_text("__version__ = '2.13.0+xpu'\n")
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert read_machine().torch_version == "2.13.0+xpu"

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read_machine().torch_version is None


@pytest.mark.parametrize(
    ("text", "mode"), [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("odd\n", None)]
)
def test_given_the_kernels_list_when_read_then_the_bracketed_mode(tmp_path: Path, text: str, mode: str | None):
    (tmp_path / "enabled").write_text(text)

    assert machine._thp(tmp_path / "enabled") == mode
    assert machine._thp(tmp_path / "absent") is None


def test_given_a_machine_when_changed_then_refused():
    read = Machine(GIB, GIB, None, None, 0, (), None, "6.1", None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.kernel = "7"  # type: ignore[misc]


def test_given_a_fresh_process_when_the_samplers_are_imported_then_no_package_comes_along():
    imported = run_python(
        "import json, sys\n"
        "from meminspect import page_cache\n"
        "from meminspect.sampling import cgroups, file_system, machine, nvml, procfs\n"
        "print(json.dumps([name for name in ('torch', 'numpy', 'psutil', 'pynvml') if name in sys.modules]))"
    )
    assert imported == []


def test_given_a_fresh_process_when_the_machine_is_read_then_torch_is_not_imported():
    imported = run_python(
        "import json, sys\nfrom meminspect.sampling.machine import read_machine\nread_machine()\n"
        "print(json.dumps('torch' in sys.modules))"
    )
    assert imported is False


@pytest.mark.parametrize(("policy", "largest"), [("0", 7 << 30), ("1", None), ("nonsense", None)])
def test_the_kernels_policy_bounds_what_may_be_mapped_at_once(tmp_path: Path, policy: str, largest: int | None) -> None:
    (tmp_path / "overcommit_memory").write_text(f"{policy}\n")

    assert machine._largest_mapping_bytes(7 << 30, tmp_path / "overcommit_memory") == largest
    assert machine._largest_mapping_bytes(7 << 30, tmp_path / "absent") is None


@pytest.mark.parametrize(("left", "expected"), [(None, None), (GIB, GIB + 100)])
def test_given_a_process_that_holds_some_when_left_out_then_both_budgets_have_it_back(
    left: int | None, expected: int | None
):
    machine = Machine(64 * GIB, 8 * GIB, left, left, 0, (), None, "6.1", None)

    assert (machine.with_room_of(100).ram_available_bytes, machine.with_room_of(100).limit_available_bytes) == (
        8 * GIB + 100, expected,
    )  # fmt: skip


def test_given_cgroups_that_nobody_sees_when_read_then_their_limit_is_unknown_and_not_absent(
    no_driver: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cgroups, "memory_group", lambda: None)

    read = read_machine()

    assert read.memory_limit_bytes is None
    assert not read.limit_is_known
    assert read.document()["reasons"] == {
        "gpus": "no NVIDIA driver",
        "memory_limit_bytes": "no memory cgroup can be seen here, so a limit of one would not be known",
        **{name: reason for name, reason in read.reasons.items() if name in ("thp", "torch_version")},
    }


def test_given_a_group_without_a_limit_when_read_then_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(cgroups, "memory_group", lambda: cgroups.MemoryGroup(tmp_path, tmp_path, 2))

    read = read_machine()

    assert read.limit_is_known
    assert read.reasons["memory_limit_bytes"] == "no limit is set"


def test_given_a_meminfo_that_is_hidden_when_read_then_what_is_free_and_why_no_more(monkeypatch: pytest.MonkeyPatch):
    def hidden() -> NoReturn:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    monkeypatch.setattr(psutil, "swap_memory", hidden)

    read = read_machine()

    assert read.ram_total_bytes == pytest.approx(meminfo("MemTotal"), rel=0.05)
    assert 0 < read.ram_available_bytes < read.ram_total_bytes
    assert read.swap_free_bytes is None
    assert read.reasons["ram_available_bytes"].startswith("only what is free, without what the page cache")
    assert read.reasons["swap_free_bytes"] == "/proc/meminfo cannot be read here"


def test_given_mig_devices_by_their_uuids_when_a_fresh_process_reads_the_machine_then_it_has_the_one_that_cuda_sees(
    stub_nvml: StubNvml,
) -> None:
    stub_nvml.gpu(0, name="NVIDIA A100", total_bytes=80 << 30)
    stub_nvml.gpu(1, name="NVIDIA B")
    stub_nvml.cut(0, {0: 8, 2: 9}, total_bytes=10 << 30, used_bytes=1 << 30)

    answer = run_python(
        "import json\nfrom meminspect.sampling.machine import read_machine\n"
        "print(json.dumps(read_machine().document()['gpus']))",
        {**stub_nvml.environment(), "CUDA_VISIBLE_DEVICES": "MIG-9,1"},
    )

    assert [(gpu["name"], gpu["total_bytes"], gpu["free_bytes"]) for gpu in answer] == [
        ("NVIDIA Stub MIG 1g.10gb", 10 << 30, 9 << 30), ("NVIDIA B", 80 << 30, 80 << 30),
    ]  # fmt: skip


NVIDIA = Gpu(0, "NVIDIA A", None, 8 * GIB, GIB, 7 * GIB, unified=False)
APU = Gpu(0, "AMD GPU", None, None, None, None, unified=True, maker="AMD")
ARC = Gpu(0, "Intel GPU", None, None, None, None, unified=False, maker="Intel")
APPLE = Gpu(0, "Apple silicon", None, None, None, None, unified=True, maker="Apple")
ROCM = Interpreter("/opt/python", "3.12.1", {"torch": "2.9.0+rocm6.4"})


@pytest.mark.parametrize(
    ("device", "python", "gpu", "why_no_vram"),
    [
        ("cuda", interpreter.OURS, NVIDIA, ""),
        ("cpu", interpreter.OURS, NVIDIA, ""),
        ("cuda", ROCM, APU, "the GPU has no memory of its own: it uses the machine's"),
        ("xpu", interpreter.OURS, ARC, "what is used is asked of NVIDIA's driver, and this GPU is Intel's"),
        ("xpu:1", interpreter.OURS, None, "no Intel GPU"),
        ("mps", interpreter.OURS, APPLE, "the GPU has no memory of its own: it uses the machine's"),
    ],
)
def test_given_gpus_of_all_makers_then_a_device_s_name_means_that_of_its_torch(
    device: str, python: Interpreter, gpu: Gpu | None, why_no_vram: str
):
    read = Machine(GIB, GIB, None, None, 0, (NVIDIA, APU, ARC, APPLE), "2.13.0+cu130", "6.1", None)

    assert read.gpu(device, python) == gpu
    assert read.shares_memory_with(device, python) is (gpu in (APU, APPLE))
    assert read.why_no_vram(device, python) == why_no_vram
    assert read.watched_for(device, python) == ((NVIDIA,) if gpu is NVIDIA else ())
