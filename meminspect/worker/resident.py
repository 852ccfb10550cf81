"""Makes every page of a model resident: the moment from which on a load costs nothing more."""

from __future__ import annotations

import bisect
import ctypes
import mmap
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from meminspect.worker.recorder import Recorder

__all__ = ["live_bytes", "storages", "touch"]

_MADV_POPULATE_READ: Final = 22  # Linux 5.14; include/uapi/asm-generic/mman-common.h
_libc = ctypes.CDLL(None, use_errno=True)


def storages(model: nn.Module) -> Iterator[tuple[str, torch.UntypedStorage]]:
    """Each distinct storage of the model's parameters and buffers, under the first name that uses it."""
    seen: set[int] = set()
    for name, tensor in _in_loading_order(model):
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu" and storage.data_ptr() not in seen and storage.nbytes():
            seen.add(storage.data_ptr())
            yield name, storage


def _in_loading_order(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def live_bytes(model: nn.Module) -> int:
    """Bytes of the model's storages."""
    return sum(storage.nbytes() for _, storage in storages(model))


def touch(model: nn.Module, recorder: Recorder) -> None:
    """Touch every page of every parameter and buffer; those that are mapped from a file are reported."""
    recorder.phase("touch")
    starts, ends = zip(*_mapped_ranges(), strict=True)  # never empty: the interpreter itself is mapped
    for name, storage in storages(model):
        address, nbytes = storage.data_ptr(), storage.nbytes()
        below = bisect.bisect_right(starts, address) - 1
        if below < 0 or address >= ends[below]:
            _populate(address, nbytes)
            continue
        id_ = recorder.begin(Operation.TOUCH, Pool.FILE, name, nbytes)
        _populate(address, nbytes)
        recorder.end(id_, Operation.TOUCH, Pool.FILE, name, nbytes)


def _mapped_ranges() -> list[tuple[int, int]]:
    """Address ranges that are mapped from files, in ascending order (`man 5 proc`, /proc/pid/maps)."""
    ranges = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123 - procfs
        for line in maps:
            span, _, _, _, inode, *_ = line.split(None, 5)
            if inode != "0":
                start, _, end = span.partition("-")
                ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _populate(address: int, nbytes: int) -> None:
    start = address & -mmap.PAGESIZE
    length = address + nbytes - start
    if _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_POPULATE_READ) == 0:
        return
    for page in range(start, start + length, mmap.PAGESIZE):  # an older kernel: one read a page
        ctypes.c_char.from_address(max(page, address)).value  # noqa: B018 - the read is the point
