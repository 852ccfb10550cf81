"""GPUs that are not NVIDIA's, by trees of files as the kernel has them, and by what a platform says it is."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.sampling.nvml import Gpu
from meminspect.sampling.other_gpus import other_gpus

if TYPE_CHECKING:
    from pathlib import Path

GIB, MIB = 1 << 30, 1 << 20
DISCRETE, APU = bytes([0, 1, 1, 3]), bytes([0, 1, 2, 4])  # headers of gpu_metrics: size, format, content
NONE: dict[str, str] = {}


class Cards:
    """What is under /sys/class/drm."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._devices, self._count = folder / "drm", folder / "devices", 0
        self.folder.mkdir()

    def add(self, address: str, vendor: str, **files: int | str | bytes) -> None:
        device, card = self._devices / address, self.folder / f"card{self._count}"
        self._count += 1
        device.mkdir(parents=True)
        card.mkdir()
        (card / "device").symlink_to(device)
        (self.folder / f"{card.name}-HDMI-A-1").mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        for name, content in files.items():
            if isinstance(content, bytes):
                (device / name).write_bytes(content)
            else:
                (device / name).write_text(f"{content}\n")

    def amd(self, address: str, *, vram: int, gtt: int, used: int = 0, metrics: bytes = DISCRETE) -> None:
        self.add(
            address, "0x1002", mem_info_vram_total=vram, mem_info_vram_used=used, mem_info_gtt_total=gtt,
            gpu_metrics=metrics,
        )  # fmt: skip


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    monkeypatch.setattr(sys, "platform", "linux")
    return Cards(tmp_path)


def test_given_amd_s_cards_then_they_are_in_the_bus_s_order_with_what_is_free(cards: Cards) -> None:
    cards.amd("0000:0b:00.0", vram=16 * GIB, gtt=31 * GIB, used=GIB)
    cards.amd("0000:03:00.0", vram=24 * GIB, gtt=31 * GIB, used=2 * GIB)

    assert other_gpus(cards.folder, NONE) == (
        Gpu(0, "AMD GPU", None, 24 * GIB, 22 * GIB, 2 * GIB, unified=False, maker="AMD"),
        Gpu(1, "AMD GPU", None, 16 * GIB, 15 * GIB, GIB, unified=False, maker="AMD"),
    )


@pytest.mark.parametrize(
    ("vram", "gtt", "metrics", "unified"),
    [
        (512 * MIB, 15 * GIB, APU, True),  # as laptops are sold
        (96 * GIB, 15 * GIB, APU, False),  # firmware has set so much aside that the driver uses it
        (0, 120 * GIB, DISCRETE, True),  # MI300A
        (8 * GIB, 15 * GIB, DISCRETE, False),  # a card with less than the driver may take of RAM
        (8 * GIB, 15 * GIB, b"", None),
    ],
)
def test_given_what_the_driver_says_of_memory_then_an_apu_s_is_the_machine_s(
    cards: Cards, vram: int, gtt: int, metrics: bytes, unified: bool | None
) -> None:
    cards.amd("0000:c5:00.0", vram=vram, gtt=gtt, metrics=metrics)

    (gpu,) = other_gpus(cards.folder, NONE)

    assert gpu.unified is unified
    assert (gpu.total_bytes is None) == (unified is True)


@pytest.mark.parametrize(
    ("environment", "totals"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, [16]),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, [16, 24]),
        ({"CUDA_VISIBLE_DEVICES": "0"}, [24]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, [16]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [16]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_given_variables_that_hide_cards_then_amd_s_are_numbered_as_programs_see_them(
    cards: Cards, environment: dict[str, str], totals: list[int]
) -> None:
    cards.amd("0000:03:00.0", vram=24 * GIB, gtt=GIB)
    cards.amd("0000:0b:00.0", vram=16 * GIB, gtt=GIB)

    assert [(gpu.total_bytes or 0) // GIB for gpu in other_gpus(cards.folder, environment)] == totals


def test_given_intel_s_then_the_one_that_the_processor_has_takes_the_machine_s_memory(cards: Cards) -> None:
    cards.add("0000:03:00.0", "0x8086")
    cards.add("0000:00:02.0", "0x8086")
    cards.add("0000:04:00.0", "0x10de")  # NVIDIA's, of which its own library tells

    assert [(gpu.maker, gpu.unified) for gpu in other_gpus(cards.folder, NONE)] == [("Intel", True), ("Intel", False)]


@pytest.mark.parametrize(("machine", "makers"), [("arm64", ["Apple"]), ("x86_64", [])])
def test_given_a_mac_then_apple_silicon_has_one_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, makers: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: machine)

    found = other_gpus(tmp_path / "none", NONE)

    assert [(gpu.maker, gpu.unified, gpu.total_bytes) for gpu in found] == [(maker, True, None) for maker in makers]
