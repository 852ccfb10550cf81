"""What torch's allocator on a device has counted, and what it has left when an allocation fails.

Of cuda, which is ROCm's too, its own module of torch tells since 2.1. Of others torch.accelerator does: of xpu since
2.9, of mps since 2.13; before that torch.xpu since 2.5, and torch.mps, which counts no peak and nothing reserved.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, Final

import torch

from meminspect.capture.records import DeviceReading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["DeviceBooks", "books_for"]

_MOST_ENTRIES: Final = 200_000  # of the allocator's history: an entry for each allocation, and for each free


class DeviceBooks:
    """One device's.

    Args:
        device: not the cpu.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: Any = getattr(torch, device.type)
        self._counted: Callable[[], DeviceReading] | None = None
        self._write_history: Callable[[], None] | None = None

    def reading(self) -> DeviceReading:
        """What is allocated and reserved, and the most that has been allocated since the reading before."""
        if self._counted is None:  # only a device that has been used tells who counts on it
            self._counted = self._counting()
        return self._counted()

    def _counting(self) -> Callable[[], DeviceReading]:
        if self._device.type != "cuda" and _accelerator_counts(self._device):
            return functools.partial(_by_accelerator, self._device, self._module)
        if hasattr(self._module, "memory_stats_as_nested_dict"):
            return functools.partial(_by_own_module, self._device, self._module)
        return functools.partial(_by_metal, self._module)

    def written(self) -> str:
        """The same as an event carries it."""
        return json.dumps(self.reading()._asdict(), separators=(",", ":"))

    def wait(self) -> None:
        """Until the device has done all that it was told to: only then is what was copied there."""
        if self._device.type == "mps":  # there is but one
            self._module.synchronize()
        else:
            self._module.synchronize(self._device)

    def integrated(self) -> bool | None:
        """Whether it is a part of the processor and uses the machine's memory; None where torch does not tell."""
        if self._device.type == "mps":
            return True
        with contextlib.suppress(AttributeError, AssertionError, RuntimeError):
            properties = self._module.get_device_properties(self._device)
            told = getattr(properties, "is_integrated_gpu" if self._device.type == "xpu" else "is_integrated", None)
            return None if told is None else bool(told)
        return None

    def settle(self) -> None:
        """Give back to the driver what has been freed, so that the load does not seem to cost less than it does."""
        self.wait()
        self._module.empty_cache()
        with contextlib.suppress(AttributeError, RuntimeError):  # torch 2.9, and where memory has been page-locked
            torch.accelerator.empty_host_cache()

    def shortage(self) -> dict[str, int | None]:
        """What there is when an allocation has failed.

        `largest_unused_bytes` is the largest piece of what is reserved and not allocated: a request that would have
        fitted into all of it, but not into that, has failed of fragmentation.
        """
        free_bytes = total_bytes = largest = None
        with contextlib.suppress(AttributeError, RuntimeError):
            free_bytes, total_bytes = self._module.mem_get_info(self._device)
        with contextlib.suppress(AttributeError):  # of the machine's memory what Metal would give to the GPU
            total_bytes = total_bytes or self._module.recommended_max_memory()
        with contextlib.suppress(AttributeError, RuntimeError, KeyError):
            blocks = [block for segment in self._module.memory_snapshot() for block in segment["blocks"]]
            largest = max((block["size"] for block in blocks if block["state"] == "inactive"), default=0)
        reading = self.reading()
        return {
            "free_bytes": free_bytes,
            "total_bytes": total_bytes,
            "allocated_bytes": reading.allocated_bytes,
            "reserved_bytes": reading.reserved_bytes,
            "process_bytes": reading.process_bytes,
            "largest_unused_bytes": largest,
        }

    def history(self, path: Path) -> Callable[[str], None] | None:
        """Record each allocation from now on, to be written to a file by `write_history`; None where nothing records.

        Returns:
            What gives the allocations that follow a name, or none.
        """
        memory = getattr(self._module, "memory", None)
        record = getattr(memory, "_record_memory_history", None)
        if record is None:
            return None
        record("all", context="alloc", stacks="python", max_entries=_MOST_ENTRIES)
        self._write_history = functools.partial(_write_history, memory, path)
        name: Callable[[str], None] | None = getattr(memory, "_set_memory_metadata", None)
        return name or (lambda _: None)

    def write_history(self) -> None:
        """Write what has been recorded, if `history` has begun it."""
        if self._write_history is not None:
            self._write_history()


def _accelerator_counts(device: torch.device) -> bool:
    """Whether torch.accelerator has this device's books."""
    with contextlib.suppress(AttributeError, RuntimeError, ValueError):  # none, none for it, or it is another's
        return "allocated_bytes.all.peak" in torch.accelerator.memory_stats(device)
    return False


def _by_accelerator(device: torch.device, module: Any) -> DeviceReading:
    stats = torch.accelerator.memory_stats(device)
    torch.accelerator.reset_peak_memory_stats(device)
    driver = getattr(module, "driver_allocated_memory", None)  # Metal's
    return DeviceReading(
        stats["allocated_bytes.all.current"],
        stats["reserved_bytes.all.current"],
        stats["allocated_bytes.all.peak"],
        None if driver is None else driver(),
    )


def _by_own_module(device: torch.device, module: Any) -> DeviceReading:
    stats = module.memory_stats_as_nested_dict(device)
    module.reset_peak_memory_stats(device)
    allocated, reserved = (stats[name]["all"] for name in ("allocated_bytes", "reserved_bytes"))
    return DeviceReading(allocated["current"], reserved["current"], allocated["peak"])


def _by_metal(module: Any) -> DeviceReading:
    return DeviceReading(module.current_allocated_memory(), None, None, module.driver_allocated_memory())


def _write_history(memory: Any, path: Path) -> None:
    path.write_text(json.dumps(memory._snapshot(), default=str))


def books_for(device: str) -> DeviceBooks | None:
    """Those of a device by its name; None for the cpu."""
    return None if device == "cpu" else DeviceBooks(torch.device(device))
