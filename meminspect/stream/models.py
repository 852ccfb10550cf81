"""Gives a model that was built on the meta device its tensors, as `load_state_dict(assign=True)` would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from meminspect.errors import StreamError
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from meminspect.stream.reading import Observer

__all__ = ["Place", "assign", "check_complete", "places"]


class Place(NamedTuple):
    """Where in a model a state dict's tensor belongs; tied ones have several."""

    owners: tuple[tuple[nn.Module, str], ...]
    names: tuple[str, ...]  # in the state dict: those of the owners
    tensor: torch.Tensor  # the one on meta

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that is expected."""
        return tuple(self.tensor.shape)

    def name_in(self, found: Collection[str]) -> str | None:
        """By which of its names it is loaded: of those in a checkpoint the one that `load_state_dict` copies last."""
        return next((name for name in reversed(self.names) if name in found), None)


def places(model: nn.Module) -> list[Place]:
    """What the model's state dict consists of, tied names together.

    Raises:
        StreamError: a parameter has memory already.
    """
    owners: dict[int, list[tuple[nn.Module, str, str]]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        persistent = {
            key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set
        }
        for key, tensor in (*module._parameters.items(), *persistent.items()):
            if tensor is None:
                continue
            name = f"{prefix}.{key}" if prefix else key
            if key in module._parameters and not tensor.is_meta:
                raise StreamError(
                    f"'{shown(name)}' has memory already", 'build the model under `with torch.device("meta"):`'
                )
            tensors[id(tensor)] = tensor
            owners.setdefault(id(tensor), []).append((module, key, name))
    return [
        Place(tuple((module, key) for module, key, _ in same), tuple(name for *_, name in same), tensors[address])
        for address, same in owners.items()
    ]


def check_complete(
    wanted: Iterable[Place], shapes: Mapping[str, tuple[int, ...]], *, joined: bool, strict: bool
) -> None:
    """Compare what the model wants with what the checkpoint has.

    Args:
        wanted: the model's places.
        shapes: of the checkpoint's tensors.
        joined: the shapes are of slices, which say nothing of the whole.
        strict: also what is missing or unexpected is an error.

    Raises:
        StreamError: they differ; all names are given.
    """
    every = list(wanted)
    known = {name for place in every for name in place.names}
    wrong = [
        f"'{shown(name)}' is {list(shapes[name])} in the checkpoint and {list(place.shape)} in the model"
        for place in every
        for name in place.names
        if not joined and name in shapes and shapes[name] != place.shape
    ]
    missing = [place.names[0] for place in every if place.name_in(shapes) is None]
    unexpected = [name for name in shapes if name not in known]
    if strict and missing:
        wrong.append(f"missing: {listed(missing, limit=20)}")
    if strict and unexpected:
        wrong.append(f"unexpected: {listed(unexpected, limit=20)}")
    if wrong:
        raise StreamError(f"the checkpoint is not this model's: {'; '.join(wrong)}")


def assign(
    model: nn.Module, wanted: Iterable[Place], tensors: Mapping[str, torch.Tensor], observer: Observer | None = None
) -> None:
    """Put tensors into their places; what the checkpoint lacks is initialised by its own module, or is an error.

    Raises:
        StreamError: something is left on the meta device.
    """
    for place in wanted:
        name = place.name_in(tensors)
        if name is None:
            continue
        value: Any = tensors[name]
        if isinstance(place.tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=place.tensor.requires_grad)
            value.__dict__.update(place.tensor.__dict__)
        for module, key in place.owners:
            if key in module._parameters:
                module._parameters[key] = value
            else:
                module._buffers[key] = value
        if observer is not None:
            observer.assigned(place.names[0], value)
    _initialise_rest(model)
    rest = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if rest:
        raise StreamError(
            f"still without memory, since the checkpoint has nothing for them: {listed(rest, limit=20)}",
            "give their modules a reset_parameters(), or build those buffers outside of the meta device",
        )


def _initialise_rest(model: nn.Module) -> None:
    """Modules of which nothing was in the checkpoint, and which can, initialise themselves."""
    for module in model.modules():
        own = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
        reset = getattr(module, "reset_parameters", None)
        if own and callable(reset) and all(tensor.is_meta for tensor in own):
            module.to_empty(device="cpu", recurse=False)
            reset()
