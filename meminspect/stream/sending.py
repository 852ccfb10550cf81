"""Copies to a device: from page-locked memory, which it reads by itself, and on a stream of each thread's own."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import torch

from meminspect.devices import PINNED_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PinnedBlock", "can_pin", "copy_to"]

_own: Any = threading.local()
_metal = threading.Lock()  # its one stream is no place for two threads


def can_pin(device: torch.device) -> bool:
    """Whether memory is to be page-locked for copies to a device: its driver then copies without one of its own."""
    return device.type in PINNED_KINDS


class PinnedBlock:
    """Page-locked memory, of torch's allocator.

    Args:
        nbytes: its length.

    Raises:
        RuntimeError: the driver refuses to lock so much.
    """

    def __init__(self, nbytes: int) -> None:
        self.tensor = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        self._bytes = memoryview((ctypes.c_ubyte * nbytes).from_address(self.tensor.data_ptr())).cast("B")

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Its bytes, to be written to."""
        return self._bytes[offset : offset + nbytes]


def copy_to(target: torch.Tensor, source: torch.Tensor, module: Callable[[torch.device], Any] | None = None) -> None:
    """`target.copy_(source)`, done when it returns.

    What a kernel has to convert or to scatter goes the common way, where the allocator's books are of one stream.

    Args:
        target: on a device, or not.
        source: on the host.
        module: tells the part of torch that a device's streams are in; torch's own by default.
    """
    if target.device.type == "mps":
        with _metal:
            target.copy_(source)
        return
    streams = (module or _streams_of)(target.device)
    if streams is None or source.dtype != target.dtype or not target.is_contiguous():
        target.copy_(source)
        return
    known = _own.__dict__.setdefault("streams", {})
    side = known.get(target.device)
    if side is None:
        side = known[target.device] = streams.Stream(target.device)
    side.wait_stream(streams.current_stream(target.device))  # whoever had the memory before may not be done with it
    with streams.stream(side):
        target.copy_(source, non_blocking=True)
    side.synchronize()  # the source is overwritten next


def _streams_of(device: torch.device) -> Any:
    return getattr(torch, device.type) if can_pin(device) else None
