"""What torch says when a device has no memory left: its sentence, which has changed over the years, and its books.

Sentences: c10/cuda/CUDACachingAllocator.cpp of PyTorch 1.13 (in brackets) and 2.1 to 2.13 (of which, including), the
same with ROCm ("HIP out of memory"), c10/cuda/CUDAMallocAsyncAllocator.cpp (a table), c10/xpu/XPUCachingAllocator.cpp,
aten/src/ATen/mps/MPSAllocator.mm; and what drivers say where no allocator of torch's is asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DeviceShortage", "shortage_of"]

_IS_OF_A_DEVICE: Final = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) out of memory|(CUDA|HIP) error: out of memory|Allocation on device \d+ would exceed"
    r"|UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"
)
_SIZE: Final = r"([\d.]+) (bytes|[KMGT]i?B)"
_UNITS: Final = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_WORDS: Final = {
    "requested_bytes": (rf"[Tt]ried to allocate {_SIZE}", rf"Requested +: {_SIZE}"),
    "free_bytes": (rf"of which {_SIZE} is free", rf"{_SIZE} free", rf"Free \(according to \w+\): {_SIZE}"),
    "total_bytes": (rf"total capaci?ty of {_SIZE}", rf"{_SIZE} total capacity", rf"Device limit +: {_SIZE}"),
    "allowed_bytes": (rf"{_SIZE} allowed;", rf"max allowed: {_SIZE}", rf"memory fraction\)\s+: {_SIZE}"),
    "allocated_bytes": (
        rf"{_SIZE} is allocated by PyTorch", rf"{_SIZE} already allocated", rf"Currently allocated +: {_SIZE}",
    ),
    "unused_bytes": (rf"{_SIZE} is reserved by PyTorch but unallocated",),
    "reserved_bytes": (rf"{_SIZE} reserved in total by PyTorch", rf"MPS allocated: {_SIZE}"),  # of MPS its heaps
    "process_bytes": (rf"this process has {_SIZE} memory in use",),
}  # fmt: skip


class DeviceShortage(NamedTuple):
    """Bytes; None where nobody tells. Those of torch's sentence are rounded to its two digits."""

    requested_bytes: int | None
    free_bytes: int | None  # of the whole device
    total_bytes: int | None
    allowed_bytes: int | None  # to this process, where less than the device is, or Metal's driver counts
    allocated_bytes: int | None  # by this process's tensors
    unused_bytes: int | None  # reserved by its allocator, and not allocated
    largest_unused_bytes: int | None  # the largest piece of that
    process_bytes: int | None  # what the process uses by the driver's count

    @property
    def fragmented(self) -> bool | None:
        """Whether the request would have fitted into what the allocator held, were that in one piece."""
        if self.requested_bytes is None or self.unused_bytes is None:
            return None
        return self.requested_bytes <= self.unused_bytes

    @property
    def words(self) -> str:
        """What went wrong, in one sentence."""
        said = ["the device is out of memory"]
        if self.requested_bytes is not None:
            said.append(f"{format_bytes(self.requested_bytes)} asked for")
        if self.free_bytes is not None:
            of = "" if self.total_bytes is None else f" of {format_bytes(self.total_bytes)}"
            said.append(f"{format_bytes(self.free_bytes)}{of} free")
        if self.allowed_bytes is not None:
            said.append(f"{format_bytes(self.allowed_bytes)} allowed to this process")
        if self.unused_bytes is not None:
            said.append(f"{format_bytes(self.unused_bytes)} reserved by torch and unused")
        if self.fragmented and self.largest_unused_bytes is not None:
            said.append(f"which is fragmented: in pieces of {format_bytes(self.largest_unused_bytes)} at most")
        elif self.fragmented:
            said.append("which is fragmented")
        return f"{said[0]}: {', '.join(said[1:])}" if said[1:] else said[0]

    def document(self) -> dict[str, Any]:
        """As the outcome has it."""
        return {**self._asdict(), "fragmented": self.fragmented}


def shortage_of(failure: Mapping[str, str], books: Mapping[str, Any] | None) -> DeviceShortage | None:
    """What was short on a device; None where it was the host's memory that was.

    Args:
        failure: type and message of what was raised.
        books: what the worker has read of its allocator then (`worker.device`), if it could; it counts more.
    """
    if not _IS_OF_A_DEVICE.search(failure["message"]):
        return None
    said = {name: _first(patterns, failure["message"]) for name, patterns in _WORDS.items()}
    known = {**said, **{name: value for name, value in (books or {}).items() if value is not None}}
    allocated, reserved = known["allocated_bytes"], known["reserved_bytes"]
    if reserved is not None and allocated is not None:
        known["unused_bytes"] = max(0, reserved - allocated)
    return DeviceShortage(*(known.get(name) for name in DeviceShortage._fields))


def _first(patterns: tuple[str, ...], message: str) -> int | None:
    """The size that stands where one of the patterns has it."""
    found = next((match for pattern in patterns if (match := re.search(pattern, message))), None)
    if found is None:
        return None
    unit = found[2] if found[2] in _UNITS else f"{found[2][0]}iB"  # MPS means binary ones, too
    return int(float(found[1]) * _UNITS[unit])
