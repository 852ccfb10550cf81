"""A module tree with a checkpoint's names and shapes, and nothing to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meminspect.errors import CheckpointError
from meminspect.worker.models.buffers import dtype_of

if TYPE_CHECKING:
    from meminspect.architectures.model import Architecture, Parameter

__all__ = ["build"]


class _Node(nn.Module):
    """A module in which a tensor and a child may have one name, as bitsandbytes' `weight` and `weight.absmax` do.

    `load_state_dict(assign=True)` sets what is there, and torch would drop the child or refuse the tensor.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        for own in (self.__dict__.get("_parameters", {}), self.__dict__.get("_buffers", {})):
            if name in own and name in self._modules:
                own[name] = value
                return
        super().__setattr__(name, value)


class Skeleton(_Node):
    """The root of the tree."""

    def forward(self, *_: object) -> Tensor:
        raise NotImplementedError("a skeleton has the checkpoint's names and shapes, but no forward pass")


def build(architecture: Architecture) -> Skeleton:
    """Modules from the dotted names; parameters random, all other tensors zero.

    Raises:
        CheckpointError: a name would hide what a module itself consists of, or torch cannot make a dtype.
    """
    root = Skeleton()
    made: dict[str, nn.Parameter | Tensor] = {}
    for parameter in architecture.parameters:
        made[parameter.name] = made[parameter.tied_to] if parameter.tied_to else _tensor(parameter)
        *path, name = parameter.name.split(".")
        owner: nn.Module = root
        for part in path:
            owner = _child(owner, part)
        _register(owner, name, made[parameter.name])
    return root


def _tensor(parameter: Parameter) -> nn.Parameter | Tensor:
    if not parameter.buffer:
        # In place, so that building it allocates nothing but itself.
        return nn.Parameter(torch.empty(parameter.shape).uniform_(-0.02, 0.02))
    try:
        if "qint" in str(parameter.dtype):  # exists, and is deprecated: zeros of it would warn or fail by version
            raise AttributeError(parameter.dtype)
        return torch.zeros(parameter.shape, dtype=dtype_of(parameter))
    except (AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{parameter.name!r:.100}: torch makes no {parameter.dtype} tensors") from error


def _child(owner: nn.Module, name: str) -> nn.Module:
    known = owner._modules.get(name)
    if known is not None:
        return known
    child = _Node()
    if _is_free(owner, name):
        owner.add_module(name, child)
    else:
        owner._modules[name] = child
    return child


def _register(owner: nn.Module, name: str, value: nn.Parameter | Tensor) -> None:
    if not isinstance(value, nn.Parameter):
        if _is_free(owner, name):
            owner.register_buffer(name, value)
        else:
            owner._buffers[name] = value
    elif _is_free(owner, name):
        owner.register_parameter(name, value)
    else:
        owner._parameters[name] = value


def _is_free(owner: nn.Module, name: str) -> bool:
    """Whether torch registers this name: it refuses empty ones and those of methods, which a state dict may well hold.

    Raises:
        CheckpointError: the name is one of the module's own fields.
    """
    if name in owner.__dict__:
        raise CheckpointError(f"{name!r} cannot name a tensor: a torch module needs it for itself")
    return bool(name) and not hasattr(owner, name)
