"""Who counts what is on a device, by stand-ins for the parts of torch that tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from meminspect.capture.records import DeviceReading
from meminspect.worker.device import DeviceBooks, books_for

NESTED = {"allocated_bytes": {"all": {"current": 5, "peak": 9}}, "reserved_bytes": {"all": {"current": 12}}}
FLAT = {"allocated_bytes.all.current": 6, "allocated_bytes.all.peak": 8, "reserved_bytes.all.current": 20}
XPU, MPS = torch.device("xpu", 1), torch.device("mps")


class Told:
    """What has been asked of which device."""

    def __init__(self) -> None:
        self.resets: list[tuple[str, Any]] = []

    def module(self, name: str, **functions: Any) -> SimpleNamespace:
        return SimpleNamespace(reset_peak_memory_stats=lambda device: self.resets.append((name, device)), **functions)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(torch, "xpu", told.module("xpu", memory_stats_as_nested_dict=lambda device: NESTED))
    monkeypatch.setattr(
        torch, "mps",
        SimpleNamespace(
            current_allocated_memory=lambda: 6, driver_allocated_memory=lambda: 30, recommended_max_memory=lambda: 90,
            synchronize=lambda: told.resets.append(("synchronised", None)),
        ),
    )  # fmt: skip
    monkeypatch.setattr(torch, "accelerator", told.module("accelerator", memory_stats=lambda device: FLAT))
    return told


@pytest.mark.parametrize(("device", "process"), [(XPU, None), (MPS, 30)])
def test_given_torch_s_accelerator_when_it_counts_then_it_is_asked(
    told: Told, device: torch.device, process: int | None
) -> None:
    assert DeviceBooks(device).reading() == DeviceReading(6, 20, 8, process)
    assert told.resets == [("accelerator", device)]


def refused(device: torch.device) -> dict[str, int]:
    raise RuntimeError(f"Allocator for {device.type} is not a DeviceAllocator.")


@pytest.mark.parametrize("older", [SimpleNamespace(), SimpleNamespace(memory_stats=refused)])
def test_given_an_older_torch_then_the_device_s_own_module_is(
    told: Told, monkeypatch: pytest.MonkeyPatch, older: SimpleNamespace
) -> None:
    monkeypatch.setattr(torch, "accelerator", older)

    assert DeviceBooks(XPU).reading() == DeviceReading(5, 12, 9)
    assert told.resets == [("xpu", XPU)]
    reading = DeviceBooks(MPS).reading()
    assert reading == DeviceReading(6, None, None, 30)
    assert reading.most_bytes == 6


@pytest.mark.usefixtures("told")
def test_given_metal_out_of_memory_then_what_it_would_give_is_the_total_and_nothing_unknown_is_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch, "accelerator")

    assert DeviceBooks(MPS).shortage() == {
        "free_bytes": None, "total_bytes": 90, "allocated_bytes": 6, "reserved_bytes": None, "process_bytes": 30,
        "largest_unused_bytes": None,
    }  # fmt: skip


def test_given_metal_s_one_device_when_waited_for_then_it_is_not_named(told: Told) -> None:
    DeviceBooks(MPS).wait()

    assert told.resets == [("synchronised", None)]


def test_given_the_cpu_then_there_are_no_books() -> None:
    assert books_for("cpu") is None


@pytest.mark.parametrize(
    ("device", "properties", "integrated"),
    [
        (MPS, {}, True),
        (XPU, {"is_integrated_gpu": True}, True),
        (XPU, {"is_integrated_gpu": False}, False),
        (XPU, {}, None),
        (torch.device("cuda"), {"is_integrated": 1}, True),
    ],
)
def test_given_what_torch_says_of_a_device_then_it_is_part_of_the_processor_or_not_or_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, properties: dict[str, int], integrated: bool | None
) -> None:
    module = SimpleNamespace(get_device_properties=lambda asked: SimpleNamespace(**properties))
    monkeypatch.setattr(torch, device.type, module)

    assert DeviceBooks(device).integrated() is integrated
