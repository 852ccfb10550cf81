"""Lets torch's meta device stand in for a CUDA device in this process: what is put on the device has no values.

Or for one of xpu or mps: MEMINSPECT_STAND_IN names the kind.

The recipes are cuda's own, word for word. A tensor of the stand-in says that it is on cuda, has an address that a model
of the caching allocator has given it, and frees it when its storage goes; what is on meta itself stays without memory.
What needs values (verification) or a kernel cannot be had from it.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import torch
import torch._dynamo  # which torch imports for tables on meta: before we are in its way
from torch.overrides import TorchFunctionMode
from torch.utils import _device

from meminspect.theory.cuda_allocator import CachingAllocator

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.theory.cuda_allocator import DeviceBlock

__all__ = ["ALLOCATOR", "install"]

_BASE: Final = 1 << 46  # beyond the addresses of a process
_KIND: Final = os.environ.get("MEMINSPECT_STAND_IN", "cuda")
_THERE: Final = torch.device(_KIND, 0)
_META: Final = torch.device("meta")
_DEVICE, _IS_META, _IS_CUDA, _DATA = (
    torch.Tensor.__dict__.get(name) or getattr(torch.Tensor, name) for name in ("device", "is_meta", "is_cuda", "data")
)
_MORE_THAN_VALUES: Final = ("copy_", "set_", "requires_grad_", "resize_")  # of methods in place
ROOM_BYTES: Final = int(os.environ.get("MEMINSPECT_STAND_IN_BYTES", 1 << 40))
_REFUSAL: Final = (
    "CUDA out of memory. Tried to allocate {:.2f} MiB. GPU 0 has a total capacity of {:.2f} MiB of which ..."
)
_PARSERS: Final = (torch.device, torch._C._nn._parse_to)


class _Storage(weakref.ref[torch.UntypedStorage]):
    """One on the stand-in, until it is gone."""

    key: int
    block: DeviceBlock | None


class Allocator:
    """Where the stand-in's storages are; with counters as torch's."""

    def __init__(self) -> None:
        self.model = CachingAllocator()
        self.peak_bytes = 0  # since it was last reset
        self.highest_bytes = 0
        self.metadata = ""
        self.trace: deque[dict[str, Any]] = deque(maxlen=0)  # nobody has asked for it
        self._storages: dict[int, _Storage] = {}

    def empty(self) -> None:
        """Give back what is reserved for nothing; where something is in use, that is forgotten."""
        self.model, self.peak_bytes, self.highest_bytes = CachingAllocator(), 0, 0
        for one in self._storages.values():
            one.block = None

    def stats(self, _: Any = None) -> dict[str, Any]:
        """As `torch.cuda.memory_stats_as_nested_dict`."""
        allocated = {"current": self.model.allocated_bytes, "peak": self.peak_bytes}
        return {
            "allocated_bytes": {"all": allocated},
            "reserved_bytes": {"all": {"current": self.model.reserved_bytes}},
        }

    def reset_peak(self, _: Any = None) -> None:
        """As `torch.cuda.reset_peak_memory_stats`."""
        self.highest_bytes = max(self.highest_bytes, self.peak_bytes)
        self.peak_bytes = self.model.allocated_bytes

    def segments(self) -> list[dict[str, Any]]:
        """As `torch.cuda.memory_snapshot`: all that is unused is one piece."""
        unused = self.model.reserved_bytes - self.model.allocated_bytes
        return [{"blocks": [{"size": unused, "state": "inactive"}]}]

    def record(self, enabled: str, *, max_entries: int, **_: Any) -> None:
        """As `torch.cuda.memory._record_memory_history`."""
        self.trace = deque(maxlen=max_entries)

    def name(self, metadata: str) -> None:
        """As `torch.cuda.memory._set_memory_metadata`."""
        self.metadata = metadata

    def snapshot(self, _: Any = None) -> dict[str, Any]:
        """As `torch.cuda.memory._snapshot`, of what is in use."""
        held = sorted((one.block.address, one.block.nbytes) for one in self._storages.values() if one.block is not None)
        blocks, end = [], 0
        for address, nbytes in [*held, (self.model.reserved_bytes, 0)]:
            for start, size, state in ((end, address - end, "inactive"), (address, nbytes, "active_allocated")):
                if size:
                    blocks.append(
                        {"address": _BASE + start, "size": size, "requested_size": size, "state": state, "frames": []}
                    )
            end = address + nbytes
        total = sum(nbytes for _, nbytes in held)
        segment = {
            "device": 0, "address": _BASE, "total_size": self.model.reserved_bytes, "allocated_size": total,
            "active_size": total, "requested_size": total, "stream": 0, "segment_type": "large",
            "segment_pool_id": (0, 0), "is_expandable": False, "frames": [], "blocks": blocks,
        }  # fmt: skip
        return {"segments": [segment], "device_traces": [list(self.trace)], "allocator_settings": {}}

    def _traced(self, action: str, block: DeviceBlock | None) -> None:
        if block is not None:
            self.trace.append(
                {"action": action, "addr": _BASE + block.address, "size": block.nbytes, "stream": 0, "frames": [],
                 "time_us": time.time_ns() // 1000, "user_metadata": self.metadata}
            )  # fmt: skip

    def free_and_total(self, _: Any = None) -> tuple[int, int]:
        """As `torch.cuda.mem_get_info`."""
        return max(0, ROOM_BYTES - self.model.reserved_bytes), ROOM_BYTES

    def has(self, storage: torch.UntypedStorage) -> bool:
        """Whether a storage is on the stand-in."""
        return storage._cdata in self._storages

    def take(self, storage: torch.UntypedStorage) -> None:
        """Put a storage there."""
        if self.has(storage):
            return
        if self.model.allocated_bytes + storage.nbytes() > ROOM_BYTES:
            raise torch.OutOfMemoryError(_REFUSAL.format(storage.nbytes() / (1 << 20), ROOM_BYTES / (1 << 20)))
        one = _Storage(storage, self._gone)
        one.key, one.block = storage._cdata, self.model.allocate(storage.nbytes())
        self._storages[one.key] = one
        self._traced("alloc", one.block)
        self.peak_bytes = max(self.peak_bytes, self.model.allocated_bytes)

    def address(self, storage: torch.UntypedStorage) -> int:
        """Where it is; 0 for an empty one."""
        block = self._storages[storage._cdata].block
        return 0 if block is None else _BASE + block.address

    def _gone(self, one: _Storage) -> None:
        del self._storages[one.key]
        self._traced("free_completed", one.block)
        self.model.free(one.block)


ALLOCATOR: Final = Allocator()


class _StandIn(TorchFunctionMode):
    """Turns every mention of the device into meta, and remembers what came of it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch looks methods up by name, and may find one that a hook has replaced and that has called us.
        func, kwargs = getattr(func, "__wrapped__", func), dict(kwargs or {})
        attribute = getattr(func, "__self__", None)
        if attribute is _DEVICE and _on_device(args[0]):
            return _THERE
        if attribute in (_IS_META, _IS_CUDA) and _on_device(args[0]):
            return attribute is _IS_CUDA and _KIND == "cuda"
        if attribute is _DATA and func.__name__ == "__set__":
            return _set_data(*args)
        if _only_fills(func):
            filled = args[0] if args else kwargs["tensor"]
            if _has_no_values(filled):
                return filled  # torch would make several steps of it, which hooks would see
        if func in _PARSERS:
            return func(*args, **kwargs)
        return _called(func, args, kwargs)


def _called(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call with meta wherever it names the device; what it makes is there if it says so, or if its operands are."""
    if func in _device._device_constructors() and kwargs.get("device") is None and _device.CURRENT_DEVICE is not None:
        kwargs["device"] = _device.CURRENT_DEVICE
    kwargs.pop("pin_memory", None)  # there is nobody to lock pages for
    values = (*args, *kwargs.values())
    asked = any(_names(value, _KIND) for value in values)
    elsewhere = any(_names(value, "meta") or _names(value, "cpu") for value in values)
    result = func(
        *(_META if _names(value, _KIND) else value for value in args),
        **{name: _META if _names(value, _KIND) else value for name, value in kwargs.items()},
    )
    if asked or (not elsewhere and any(map(_on_device, _flat(values)))):
        for made in _flat((result,)):
            if made.untyped_storage().device.type == "meta":
                ALLOCATOR.take(made.untyped_storage())
    return result


def _flat(values: tuple[Any, ...]) -> list[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _flat(tuple(value))
    return found


def _names(value: object, kind: str) -> bool:
    """Whether an argument names a device of a kind."""
    if isinstance(value, str):
        return value == kind or value.startswith(f"{kind}:")
    return isinstance(value, torch.device) and value.type == kind


def _on_device(tensor: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return bool(tensor.is_meta) and ALLOCATOR.has(tensor.untyped_storage())


def _only_fills(func: Callable[..., Any]) -> bool:
    """Whether a function changes nothing but values."""
    name = func.__name__
    in_place = name.endswith("_") and not name.endswith("__") and name not in _MORE_THAN_VALUES
    return in_place or getattr(func, "__module__", None) == torch.nn.init.__name__


def _has_no_values(tensor: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return bool(tensor.is_meta)


def _set_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """`tensor.data = data`, which torch does between a host and a GPU, but not with meta."""
    with torch._C.DisableTorchFunction():
        if tensor.is_meta == data.is_meta:
            tensor.data = data
            return
        other = data.detach()
        if isinstance(tensor, torch.nn.Parameter):
            other = torch.nn.Parameter(other, tensor.requires_grad)
        torch._C._swap_tensor_impl(tensor, other)


def _count_elsewhere() -> None:
    """As torch since 2.9 does for xpu, and before 2.13 for mps."""
    module = getattr(torch, _KIND)
    module.synchronize = lambda device=None: None
    module.empty_cache = ALLOCATOR.empty
    if _KIND == "mps":
        torch.UntypedStorage.mps = lambda storage: storage.to(device=_THERE)  # type: ignore[method-assign]
        module.current_allocated_memory = lambda: ALLOCATOR.model.allocated_bytes
        module.driver_allocated_memory = lambda: ALLOCATOR.model.reserved_bytes
        return
    torch.accelerator.memory_stats = lambda device: {
        f"{name}.all.{when}": nbytes
        for name, pools in ALLOCATOR.stats().items() for when, nbytes in pools["all"].items()
    }  # fmt: skip
    torch.accelerator.reset_peak_memory_stats = ALLOCATOR.reset_peak


def install() -> None:
    """From now on, in this process."""
    data_ptr, compatible, to = torch.UntypedStorage.data_ptr, torch._has_compatible_shallow_copy_type, torch.storage._to

    def address(storage: torch.UntypedStorage) -> int:
        return ALLOCATOR.address(storage) if ALLOCATOR.has(storage) else data_ptr(storage)

    def sent(storage: torch.UntypedStorage, device: torch.device, non_blocking: bool = False) -> torch.UntypedStorage:
        if device.type != _KIND:
            return to(storage, device, non_blocking)  # type: ignore[no-any-return]
        there = torch.UntypedStorage(storage.nbytes(), device="meta")
        ALLOCATOR.take(there)
        return there

    if _KIND != "cuda":
        _count_elsewhere()
    torch.cuda.memory_stats_as_nested_dict = ALLOCATOR.stats
    torch.cuda.reset_peak_memory_stats = ALLOCATOR.reset_peak
    torch.cuda.mem_get_info = ALLOCATOR.free_and_total
    torch.cuda.memory_snapshot = ALLOCATOR.segments
    torch.cuda.memory._record_memory_history = ALLOCATOR.record
    torch.cuda.memory._set_memory_metadata = ALLOCATOR.name
    torch.cuda.memory._snapshot = ALLOCATOR.snapshot
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.empty_cache = ALLOCATOR.empty
    torch.UntypedStorage.data_ptr = address  # type: ignore[method-assign]
    torch.storage._to = sent
    torch.serialization._validate_device = lambda location, name: torch.device(location)
    torch._has_compatible_shallow_copy_type = lambda one, other: (
        not (_has_no_values(one) and not _on_device(one)) and (_on_device(other) or compatible(one, other))
    )
    _StandIn().__enter__()
