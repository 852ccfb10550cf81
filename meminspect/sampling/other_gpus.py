"""GPUs that NVML does not know: AMD's, Intel's and Apple's, by what the kernel says of them without a library.

What is read, under a card's `device` in /sys/class/drm:

- amdgpu's `mem_info_vram_total`, `mem_info_vram_used` and `mem_info_gtt_total` (Documentation/gpu/amdgpu), and
  `gpu_metrics`, the third byte of whose header is 2 or more for an APU (kgd_pp_interface.h of the driver);
- Intel's integrated GPU is 0000:00:02.0; one with memory of its own is behind a bridge.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meminspect.sampling.nvml import Gpu
from meminspect.sampling.visible_gpus import visible_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["other_gpus"]

_DRM: Final = Path("/sys/class/drm")
_AMD, _INTEL = "0x1002", "0x8086"
_CARD: Final = re.compile(r"card\d+")
_APU_METRICS: Final = 2  # format_revision
_METRICS_HEADER_BYTES: Final = 4
_INTEGRATED: Final = "0000:00:02.0"
# The second counts within what the first leaves; HIP reads CUDA's variable where its own is not set.
_AMD_VISIBLE: Final = (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))


def other_gpus(folder: Path = _DRM, environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """AMD's GPUs that a program sees, Intel's, and Apple's; of each maker in the order of the bus.

    Args:
        folder: of the kernel's cards.
        environment: may hide some of AMD's.
    """
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return (Gpu(0, "Apple silicon", None, None, None, None, unified=True, maker="Apple"),)
    cards = sorted(_cards(folder), key=lambda device: device.name)
    amds, intels = ([card for card in cards if _text(card / "vendor") == vendor] for vendor in (_AMD, _INTEL))
    amd = tuple(_amd(index, device) for index, device in enumerate(amds))
    for names in _AMD_VISIBLE:
        named = next((environment[name] for name in names if name in environment), None)
        amd = amd if named is None else visible_gpus(amd, {"CUDA_VISIBLE_DEVICES": named})
    return (*amd, *(_intel(index, device) for index, device in enumerate(intels)))


def _cards(folder: Path) -> Iterator[Path]:
    """The devices that cards are: folders by their address on the bus."""
    try:
        cards = [card for card in folder.iterdir() if _CARD.fullmatch(card.name)]
    except OSError:
        return
    yield from ((card / "device").resolve() for card in cards)


def _amd(index: int, device: Path) -> Gpu:
    total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
    name = _text(device / "product_name") or "AMD GPU"
    unified = _takes_from_ram(device, total)
    if unified:
        return Gpu(index, name, None, None, None, None, unified=True, maker="AMD")
    free = None if total is None or used is None else total - used
    return Gpu(index, name, None, total, free, used, unified=unified, maker="AMD")


def _takes_from_ram(device: Path, vram_bytes: int | None) -> bool | None:
    """Whether what is allocated on a GPU is the machine's RAM; None where nobody can tell.

    An APU has no other memory. What firmware has set aside of it as VRAM, and Linux does not count as RAM, is used if
    that is no less than what the driver may take of the rest (amdgpu_ttm_init: `apu_prefer_gtt`).
    """
    if vram_bytes == 0:  # MI300A
        return True
    try:
        with (device / "gpu_metrics").open("rb") as file:
            header = file.read(_METRICS_HEADER_BYTES)
    except OSError:
        return None
    shared_bytes = _number(device / "mem_info_gtt_total")
    if len(header) < _METRICS_HEADER_BYTES:
        return None
    if header[2] < _APU_METRICS:
        return False
    return None if vram_bytes is None or shared_bytes is None else vram_bytes < shared_bytes


def _intel(index: int, device: Path) -> Gpu:
    return Gpu(index, "Intel GPU", None, None, None, None, unified=device.name == _INTEGRATED, maker="Intel")


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
