"""Where accelerate brings the weights of a model from that it has left on disk: its hooks know for each module."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

__all__ = ["offloaded"]


def offloaded(model: nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """What reads each tensor that is on meta because it is on disk, by its name."""
    found: dict[str, Callable[[], torch.Tensor]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for weights in _weights_maps(module):
            on_disk = set(weights)  # by whole names; asking whether it has one would read it
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                whole = f"{path}.{name}" if path else name
                if tensor is not None and tensor.is_meta and whole in on_disk:
                    found[whole] = functools.partial(weights.__getitem__, name)
    return found


def _weights_maps(module: nn.Module) -> Iterator[Any]:
    """The mappings of accelerate's hooks on a module, which may be several in one (`SequentialHook`)."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is not None:
            yield weights
