"""Watches models: their random construction, `load_state_dict`, and copies into their parameters."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, pool_of, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["ConstructionPlan", "Planned", "constructed", "plan_construction", "watch"]


class Planned(NamedTuple):
    """What one call of a factory (`torch.empty`, …) makes; the name is empty for a temporary."""

    name: str
    nbytes: int
    detail: str


ConstructionPlan = dict[tuple[Any, int], Planned]  # (function, how often it has been called before) → what it makes


class _Planner(TorchFunctionMode):
    """Keeps what the factories return, to be recognised among the finished model's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[tuple[Any, int], torch.Tensor] = {}
        self._calls: Counter[Any] = Counter()
        self._seen: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A fill on meta fills nothing, and makes torch import its compiler for it: over a second.
        fills = getattr(func, "__module__", None) == nn.init.__name__
        result = _filled(args, kwargs or {}) if fills else func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata not in self._seen:
            self._seen.add(result.untyped_storage()._cdata)
            self.made[_plain(func), self._calls[_plain(func)]] = result
        self._calls[_plain(func)] += 1
        return result


def _filled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function of `torch.nn.init` returns: the tensor that it is given first."""
    return args[0] if args else kwargs["tensor"]


def _plain(func: Any) -> Any:
    """The function itself: torch looks methods up by name, and may find one that a hook has replaced."""
    return getattr(func, "__wrapped__", func)


def plan_construction(build: Callable[[], nn.Module]) -> ConstructionPlan:
    """Build the model once on meta, which costs no memory, to learn which factory call makes which parameter."""
    planner = _Planner()
    with planner, torch.device("meta"):
        model = build()
    names = {tensor.untyped_storage()._cdata: name for name, tensor in _tensors(model)}
    return {
        call: Planned(name, made.nbytes, describe(str(made.dtype), tuple(made.shape)))
        for call, made in planner.made.items()
        if (name := names.get(made.untyped_storage()._cdata, ""))
    }


class _Construction(TorchFunctionMode):
    """Reports each parameter from its factory's call to the next one's: the random numbers come in between."""

    def __init__(self, tracker: Tracker, plan: ConstructionPlan, pool: Pool) -> None:
        super().__init__()
        self._tracker = tracker
        self._pool = pool
        self._plan = plan
        self._calls: Counter[Any] = Counter()
        self._open: tuple[int, str, torch.Tensor] | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        planned = self._plan.get((_plain(func), self._calls[_plain(func)]))
        self._calls[_plain(func)] += 1
        if func in _device_constructors() or planned is not None:
            self.close()
        if planned is None:
            return func(*args, **(kwargs or {}))
        id_ = self._tracker.recorder.begin(
            Operation.MATERIALISE, self._pool, planned.name, planned.nbytes, detail=planned.detail
        )
        result = func(*args, **(kwargs or {}))
        self._open = (id_, planned.name, result)
        return result

    def close(self) -> None:
        """The tensor under construction is done."""
        if self._open is not None:
            id_, name, tensor = self._open
            self._open = None
            self._tracker.end(id_, self._pool, name, tensor.untyped_storage())


def constructed(tracker: Tracker, build: Callable[[], nn.Module], plan: ConstructionPlan) -> nn.Module:
    """Build the model, reporting each parameter that takes memory."""
    tracker.recorder.phase("build")
    device = torch.empty(0).device
    if device.type == "meta" or _goes_to_meta():
        tracker.model = build()
        return tracker.model
    construction = _Construction(tracker, plan, pool_of(device))
    try:
        with construction:
            model = build()
    finally:
        construction.close()
    return model


def _goes_to_meta() -> bool:
    """Whether a recipe has what modules register sent to meta at once: then none of it takes memory."""
    return bool(nn.modules.module._global_parameter_registration_hooks)


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""

    def watched_load_state_dict(load_state_dict: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load_state_dict)
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            assign = kwargs.get("assign", len(args) > 2 and args[2])
            tracker.recorder.phase("assign" if assign else "copy")
            result = load_state_dict(self, *args, **kwargs)
            tracker.recorder.before_fall()  # whoever has copied a state dict drops it next
            return result

        return call

    def watched_load_module(load_module: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load_module)
        def call(self: nn.Module, state_dict: Any, prefix: str, local_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            result = load_module(self, state_dict, prefix, local_metadata, *args, **kwargs)
            if local_metadata.get("assign_to_params_buffers", False):
                _report_assigned(tracker, self, prefix, state_dict)
            return result

        return call

    def watched_copy(copy_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(copy_)
        def call(self: torch.Tensor, source: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            name = "" if tracker.filling else tracker.name_of(self)
            if not name:
                filled: torch.Tensor = copy_(self, source, *args, **kwargs)
                if tracker.is_filling(self):
                    tracker.recorder.before_fall(grown=True)  # what the part was made of is dropped next
                return filled
            recorder = tracker.recorder
            recorder.phase("copy")
            detail = describe(f"{source.dtype} → {str(self.dtype).removeprefix('torch.')}", tuple(self.shape))
            id_ = recorder.begin(Operation.COPY, Pool.NONE, name, source.nbytes, detail=detail)
            result: torch.Tensor = copy_(self, source, *args, **kwargs)
            recorder.end(id_, Operation.COPY, Pool.NONE, name, source.nbytes)
            return result

        return call

    with (
        replaced(nn.Module, "load_state_dict", watched_load_state_dict),
        replaced(nn.Module, "_load_from_state_dict", watched_load_module),
        replaced(torch.Tensor, "copy_", watched_copy),
    ):
        yield


def _report_assigned(tracker: Tracker, module: nn.Module, prefix: str, state_dict: dict[str, torch.Tensor]) -> None:
    for name in (*module._parameters, *module._buffers):
        tensor = state_dict.get(prefix + name)
        if tensor is not None:
            tracker.recorder.done(Operation.ASSIGN, Pool.NONE, prefix + name, tensor.nbytes)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
