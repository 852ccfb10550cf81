"""Watches transformers build a model with random weights, as recipes of ours do with `Model(config)`."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from torch import nn

from meminspect.worker.hooks.modules import constructed
from meminspect.worker.hooks.tracker import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]

_REGISTER = nn.Module.register_parameter


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        yield
        return

    def watched_from_config(from_config: Any) -> Any:
        function: Callable[..., nn.Module] = from_config.__func__

        def call(cls: type, *args: Any, **kwargs: Any) -> nn.Module:
            if nn.Module.register_parameter is not _REGISTER:  # accelerate: what is registered goes to meta at once
                return function(cls, *args, **kwargs)
            return constructed(tracker, lambda: function(cls, *args, **kwargs), tracker.construction)

        return classmethod(call)

    base = transformers.PreTrainedModel
    with replaced(base, "_from_config", lambda _: watched_from_config(base.__dict__["_from_config"])):
        yield
