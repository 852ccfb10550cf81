"""Makes every page of a model resident: the moment from which on a load costs nothing more."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from meminspect.capture.records import Operation, Pool
from meminspect.stream.ahead import touch_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch import nn

    from meminspect.worker.recorder import Recorder

__all__ = ["live_bytes", "plain_tensors", "storages", "touch"]


def storages(model: nn.Module) -> Iterator[tuple[str, torch.UntypedStorage]]:
    """Each distinct storage of the model's parameters and buffers, under the first name that uses it."""
    seen: set[int] = set()
    for name, tensor in _in_loading_order(model):
        for part in plain_tensors(tensor):
            storage = part.untyped_storage()
            if storage.device.type == "cpu" and storage.data_ptr() not in seen and storage.nbytes():
                seen.add(storage.data_ptr())
                yield name, storage


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that have the memory: itself, or what a subclass is made of, and bitsandbytes' scales beside it."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from plain_tensors(getattr(tensor, name))
        return
    yield tensor
    beside = getattr(tensor, "SCB", None), getattr(getattr(tensor, "quant_state", None), "absmax", None)
    yield from (scale for scale in beside if isinstance(scale, torch.Tensor))


def _in_loading_order(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def live_bytes(model: nn.Module) -> int:
    """Bytes of the model's storages."""
    return sum(storage.nbytes() for _, storage in storages(model))


def touch(
    model: nn.Module, recorder: Recorder, seen_mapped: Callable[[int], bool], touched: Collection[int] = ()
) -> None:
    """Touch every page of every parameter and buffer; those that are mapped from a file are reported.

    Args:
        model: loaded.
        recorder: what they are reported to.
        seen_mapped: whether a storage at an address was seen to be mapped: asked where the kernel does not tell.
        touched: addresses of those that are resident already, and have been reported.

    Raises:
        StreamError: a page cannot be read.
    """
    recorder.phase("touch")
    is_mapped = _told_mapped() or seen_mapped
    for name, storage in storages(model):
        nbytes = storage.nbytes()
        if storage.data_ptr() in touched:  # to look at them again would be time that the load does not take
            continue
        if not is_mapped(storage.data_ptr()):
            touch_pages(name, storage)
            continue
        id_ = recorder.begin(Operation.TOUCH, Pool.FILE, name, nbytes)
        touch_pages(name, storage)
        recorder.end(id_, Operation.TOUCH, Pool.FILE, name, nbytes)


def _told_mapped() -> Callable[[int], bool] | None:
    """Tells whether an address is that of a file's page; None where the kernel says it of none."""
    try:
        ranges = _mapped_ranges()
    except OSError:
        return None
    starts, ends = zip(*ranges, strict=True)  # never empty: the interpreter itself is mapped

    def is_mapped(address: int) -> bool:
        below = bisect.bisect_right(starts, address) - 1
        return below >= 0 and bool(address < ends[below])

    return is_mapped


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
