"""Gives a model that was built on the meta device its tensors, as `load_state_dict(assign=True)` would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from meminspect.errors import StreamError
from meminspect.stream.quantised import QuantisedLinear
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from meminspect.stream.arrange import Arrangement
    from meminspect.stream.reading import Observer

__all__ = ["Place", "assign", "check_complete", "initialise", "places", "self_initialising"]


class Place(NamedTuple):
    """Where in a model a state dict's tensor belongs; tied ones have several."""

    owners: tuple[tuple[nn.Module, str], ...]
    names: tuple[str, ...]  # in the state dict: those of the owners
    tensor: torch.Tensor  # the one on meta
    layer: QuantisedLinear | None = None  # whose weight this is, which is stored in full precision

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that is expected."""
        return tuple(self.tensor.shape) if self.layer is None else self.layer.shape

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
    layers: dict[int, QuantisedLinear] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        persistent = {
            key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set
        }
        for key, tensor in (*module._parameters.items(), *persistent.items()):
            if tensor is None or (isinstance(module, QuantisedLinear) and key == "scale"):  # comes with the weight
                continue
            if isinstance(module, QuantisedLinear) and key == "weight":
                layers[id(tensor)] = module
            name = f"{prefix}.{key}" if prefix else key
            if key in module._parameters and not tensor.is_meta:
                raise StreamError(
                    f"'{shown(name)}' has memory already", 'build the model under `with torch.device("meta"):`'
                )
            tensors[id(tensor)] = tensor
            owners.setdefault(id(tensor), []).append((module, key, name))
    return [
        Place(
            tuple((module, key) for module, key, _ in same),
            tuple(name for *_, name in same),
            tensors[address],
            layers.get(address),
        )
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


def self_initialising(model: nn.Module, wanted: Iterable[Place], found: Collection[str]) -> list[nn.Module]:
    """The modules of which a checkpoint has nothing, and which initialise themselves.

    Args:
        model: on the meta device.
        wanted: the model's places.
        found: the checkpoint's names.

    Raises:
        StreamError: something else would be left on the meta device; all names are given.
    """
    loaded = [place for place in wanted if place.name_in(found) is not None]
    filled = {id(place.tensor) for place in loaded}
    filled.update(id(place.layer.scale) for place in loaded if place.layer is not None)
    initialising: list[nn.Module] = []
    left: list[str] = []
    for prefix, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        has = {key: tensor for key, tensor in own.items() if tensor is not None}
        lacking = [key for key, tensor in has.items() if tensor.is_meta and id(tensor) not in filled]
        if lacking and len(lacking) == len(has) and callable(getattr(module, "reset_parameters", None)):
            initialising.append(module)
        else:
            left += [f"{prefix}.{key}" if prefix else key for key in lacking]
    if left:
        raise StreamError(
            f"the checkpoint has nothing for {listed(left, limit=20)}, which would stay without memory",
            "give their modules a reset_parameters(), or build those buffers outside of the meta device",
        )
    return initialising


def assign(wanted: Iterable[Place], arrangement: Arrangement, observer: Observer | None = None) -> None:
    """Put tensors into their places in the model."""
    for place in wanted:
        name = place.name_in(arrangement.tensors)
        if name is None:
            continue
        value: Any = arrangement.tensors[name]
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
        if place.layer is not None:
            place.layer.scale = arrangement.scales[name]
            if observer is not None:
                observer.assigned(place.names[0], place.layer.scale)


def initialise(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Give modules memory, and let them fill it."""
    for module in modules:
        module.to_empty(device=device, recurse=False)
        module.reset_parameters()  # type: ignore[operator]
