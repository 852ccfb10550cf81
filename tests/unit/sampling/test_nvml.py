from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sampling_processes import run_python

from meminspect.sampling.nvml import Gpu, Traffic, open_nvml

if TYPE_CHECKING:
    from stubs import StubNvml

GIB = 1 << 30
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, LOST, MISMATCH, UNKNOWN = 3, 4, 9, 13, 15, 18, 999


def opened(stub: StubNvml):
    nvml = open_nvml().nvml
    assert nvml is not None
    return nvml


def test_given_two_gpus_when_listed_then_each_has_its_own_figures(stub_nvml: StubNvml):
    stub_nvml.gpu(0, name="NVIDIA A", total_bytes=80 * GIB, used_bytes=3 * GIB)
    stub_nvml.gpu(1, name="NVIDIA B", total_bytes=24 * GIB)

    with opened(stub_nvml) as nvml:
        devices = nvml.devices()

    assert devices == [
        Gpu(0, "NVIDIA A", "GPU-0", 80 * GIB, 77 * GIB, 3 * GIB, unified=False),
        Gpu(1, "NVIDIA B", "GPU-1", 24 * GIB, 24 * GIB, 0, unified=False),
    ]


def test_given_an_open_nvml_when_use_changes_then_the_next_reading_says_so(stub_nvml: StubNvml):
    stub_nvml.gpu(used_bytes=GIB)
    nvml = opened(stub_nvml)
    before = nvml.used_bytes(0)

    stub_nvml.gpu(used_bytes=5 * GIB)

    assert (before, nvml.used_bytes(0)) == (GIB, 5 * GIB)


def test_given_no_gpu_when_asked_then_there_is_none_and_no_error(stub_nvml: StubNvml):
    nvml = opened(stub_nvml)

    assert nvml.devices() == []
    assert nvml.used_bytes(0) is None
    assert nvml.process_bytes(0, 17) is None


def test_given_an_index_that_is_not_there_when_asked_then_none(stub_nvml: StubNvml):
    stub_nvml.gpu()
    nvml = opened(stub_nvml)

    assert nvml.used_bytes(1) is None
    assert nvml.used_bytes(-1) is None


def test_given_processes_when_asked_for_one_then_its_instances_are_added_up(stub_nvml: StubNvml):
    stub_nvml.gpu(processes=[(17, 3 * GIB), (18, GIB), (17, 2 * GIB)])
    nvml = opened(stub_nvml)

    assert nvml.process_bytes(0, 17) == 5 * GIB
    assert nvml.process_bytes(0, 18) == GIB
    assert nvml.process_bytes(0, 19) is None


def test_given_a_driver_that_does_not_tell_of_a_process_when_asked_then_none_and_not_the_marker(stub_nvml: StubNvml):
    stub_nvml.gpu(processes={17: None})

    assert opened(stub_nvml).process_bytes(0, 17) is None


def test_given_more_processes_than_any_buffer_when_asked_then_the_last_is_found(stub_nvml: StubNvml):
    stub_nvml.gpu(processes={pid: pid for pid in range(1, 201)})

    assert opened(stub_nvml).process_bytes(0, 200) == 200


def test_given_unified_memory_when_listed_then_it_says_so_and_has_no_figures(stub_nvml: StubNvml):
    stub_nvml.gpu(name="NVIDIA GB10")
    stub_nvml.fail("nvmlDeviceGetMemoryInfo", NOT_SUPPORTED, index=0)
    nvml = opened(stub_nvml)

    assert nvml.devices() == [Gpu(0, "NVIDIA GB10", "GPU-0", None, None, None, unified=True)]
    assert nvml.used_bytes(0) is None


@pytest.mark.parametrize("code", [NO_PERMISSION, FUNCTION_NOT_FOUND, LOST, UNKNOWN, 12345])
def test_given_any_other_error_when_listed_then_whether_it_is_unified_is_unknown(stub_nvml: StubNvml, code: int):
    stub_nvml.gpu()
    stub_nvml.fail("nvmlDeviceGetMemoryInfo", code, index=0)

    assert opened(stub_nvml).devices() == [Gpu(0, "NVIDIA Stub", "GPU-0", None, None, None, unified=None)]


def test_given_a_gpu_lost_while_open_when_asked_then_none_for_it_and_figures_for_the_other(stub_nvml: StubNvml):
    stub_nvml.gpu(0)
    stub_nvml.gpu(1, used_bytes=GIB)
    nvml = opened(stub_nvml)

    for function in ("MemoryInfo", "Name", "UUID", "ComputeRunningProcesses"):
        stub_nvml.fail(f"nvmlDeviceGet{function}", LOST, index=0)

    assert nvml.devices()[0] == Gpu(0, None, None, None, None, None, unified=None)
    assert (nvml.used_bytes(0), nvml.process_bytes(0, 17), nvml.used_bytes(1)) == (None, None, GIB)


def test_given_a_gpu_lost_before_opening_when_listed_then_the_others_keep_their_index(stub_nvml: StubNvml):
    stub_nvml.gpu(0)
    stub_nvml.gpu(1, name="NVIDIA B")
    stub_nvml.fail("nvmlDeviceGetHandleByIndex", LOST, index=0)

    devices = opened(stub_nvml).devices()

    assert devices[0] == Gpu(0, None, None, None, None, None, unified=None)
    assert (devices[1].index, devices[1].name) == (1, "NVIDIA B")


def test_given_a_driver_older_than_pynvml_when_asked_for_processes_then_none(stub_nvml: StubNvml):
    stub_nvml.gpu(processes={17: GIB})
    stub_nvml.fail("nvmlDeviceGetComputeRunningProcesses", FUNCTION_NOT_FOUND, index=0)

    assert opened(stub_nvml).process_bytes(0, 17) is None


def test_given_a_failing_count_or_shutdown_when_used_then_no_exception(stub_nvml: StubNvml):
    stub_nvml.gpu()
    stub_nvml.fail("nvmlDeviceGetCount", UNKNOWN)
    stub_nvml.fail("nvmlShutdown", UNKNOWN)

    with opened(stub_nvml) as nvml:
        assert nvml.devices() == []


def test_given_a_closed_nvml_when_asked_then_none(stub_nvml: StubNvml):
    stub_nvml.gpu()
    nvml = opened(stub_nvml)

    nvml.close()

    assert nvml.used_bytes(0) is None


@pytest.mark.parametrize(
    ("code", "words"), [(DRIVER_NOT_LOADED, "not loaded"), (MISMATCH, "version mismatch"), (UNKNOWN, "Unknown Error")]
)
def test_given_a_driver_that_does_not_start_when_opened_then_the_reason_is_told(
    stub_nvml: StubNvml, code: int, words: str
):
    stub_nvml.fail("nvmlInit", code)

    nvml, reason = open_nvml()

    assert nvml is None
    assert words in reason


def test_given_no_library_when_opened_then_the_reason_names_it(monkeypatch: pytest.MonkeyPatch):
    import pynvml

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "CDLL", absent)

    assert open_nvml() == (None, "no NVIDIA driver (libnvidia-ml.so.1 not found)")


def test_given_no_pynvml_when_opened_then_the_reason_names_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)

    assert open_nvml() == (None, "the package nvidia-ml-py is not installed")


def test_given_the_stub_on_the_library_path_when_a_fresh_process_opens_nvml_then_it_loads_it_as_the_driver(
    stub_nvml: StubNvml,
):
    stub_nvml.gpu(name="NVIDIA Stub", used_bytes=7)

    answer = run_python(
        "import json, dataclasses\nfrom meminspect.sampling.nvml import open_nvml\n"
        "print(json.dumps([dataclasses.asdict(gpu) for gpu in open_nvml().nvml.devices()]))",
        stub_nvml.environment(),
    )

    assert [(gpu["name"], gpu["used_bytes"]) for gpu in answer] == [("NVIDIA Stub", 7)]


def test_given_a_gpu_cut_into_mig_devices_when_listed_then_each_is_one_of_its_own(stub_nvml: StubNvml):
    stub_nvml.gpu(0, name="NVIDIA A100", uuid="GPU-a100")
    stub_nvml.gpu(1, name="NVIDIA B")
    stub_nvml.cut(0, {0: 8, 3: 9}, total_bytes=10 * GIB, used_bytes=GIB)

    devices = opened(stub_nvml).devices()

    assert [(gpu.index, gpu.uuid, gpu.slice_of, gpu.is_cut) for gpu in devices] == [
        (0, "GPU-a100", None, True), (1, "GPU-1", None, False), (2, "MIG-8", 0, False), (3, "MIG-9", 0, False),
    ]  # fmt: skip
    assert [gpu.free_bytes for gpu in devices[2:]] == [9 * GIB, 9 * GIB]


def test_given_a_lost_mig_device_when_listed_then_the_others_are_there(stub_nvml: StubNvml):
    stub_nvml.gpu()
    stub_nvml.cut(0, {0: 8, 1: 9})
    stub_nvml.fail("nvmlDeviceGetMigDeviceHandleByIndex", LOST, index=8)

    assert [gpu.uuid for gpu in opened(stub_nvml).devices()] == ["GPU-0", "MIG-9"]


def test_given_traffic_when_asked_then_rates_are_in_bytes(stub_nvml: StubNvml):
    stub_nvml.gpu(traffic=(40, 10, 20))

    assert opened(stub_nvml).traffic(0) == Traffic(40, 10 << 10, 20 << 10)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, LOST])
def test_given_a_driver_that_tells_no_traffic_when_asked_then_it_is_unknown(stub_nvml: StubNvml, code: int):
    stub_nvml.gpu(traffic=(40, 10, 20))
    stub_nvml.fail("nvmlDeviceGetUtilizationRates", code, index=0)
    stub_nvml.fail("nvmlDeviceGetPcieThroughput", code, index=0)

    assert opened(stub_nvml).traffic(0) == Traffic(None, None, None)


def test_given_a_script_when_memory_is_read_again_and_again_then_answers_follow_it(stub_nvml: StubNvml):
    stub_nvml.gpu(used_bytes=1)
    stub_nvml.later(3, **{"0.used": 7})
    stub_nvml.later(4, **{"0.nvmlDeviceGetMemoryInfo": LOST})

    fresh = "import json\nfrom meminspect.sampling.nvml import open_nvml\nnvml = open_nvml().nvml\n"
    answer = run_python(f"{fresh}print(json.dumps([nvml.used_bytes(0) for _ in range(4)]))", stub_nvml.environment())

    assert answer == [1, 1, 7, None]
