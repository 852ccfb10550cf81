"""The orders in which torch meets a model's parameters and buffers, which are not always that of their registration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meminspect.architectures.model import Parameter

__all__ = ["conversion_order", "loading_order"]


def loading_order(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """The order in which `load_state_dict` meets them.

    It takes a module's own parameters, then its own buffers, then its children (torch/nn/modules/module.py,
    `_load_from_state_dict`), where construction may have registered a buffer after a child.
    """
    # Almost every model has it already, and the places of a million parameters take half a gigabyte.
    return parameters if _are_in_loading_order(parameters) else _ordered(parameters, own=0, buffer=1, first_child=2)


def conversion_order(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """The order in which `model.to` meets them: a module's children come before its own (`_apply`)."""
    return _ordered(parameters, own=sys.maxsize - 1, buffer=sys.maxsize, first_child=0)


def _are_in_loading_order(parameters: Iterable[Parameter]) -> bool:
    """Whether no module is met again once it has been left, nor its own behind a child's or behind a buffer of it."""
    last, last_parent, was_buffer = "", "", False
    opened: list[tuple[str, set[str]]] = [("", set())]  # above the last: a prefix, and the children met below it
    for parameter in parameters:
        module = parameter.name.rpartition(".")[0]
        if module == last:
            if was_buffer and not parameter.buffer:
                return False
        else:
            parent, _, child = module.rpartition(".")
            met = opened[-1][1]
            if parent != last_parent or not parent:
                if not _enter(module, last, opened):
                    return False
            elif child in met:
                return False
            else:
                met.add(child)
            last, last_parent = module, parent
        was_buffer = parameter.buffer
    return True


def _enter(module: str, last: str, opened: list[tuple[str, set[str]]]) -> bool:
    """Go from the last module to another; whether that is a new one, below one that has not been left."""
    if last:
        opened.append((f"{last}.", set()))
    inner = f"{module}."
    while not inner.startswith(opened[-1][0]):
        opened.pop()
    prefix, met = opened[-1]
    if inner in (prefix, ".") or module.startswith("."):  # the last two are names that no module has
        return False
    *parents, child = module[len(prefix) :].split(".")
    for name in parents:
        if name in met:
            return False
        met.add(name)
        prefix, met = f"{prefix}{name}.", set()
        opened.append((prefix, met))
    if child in met:
        return False
    met.add(child)
    return True


def _ordered(parameters: tuple[Parameter, ...], *, own: int, buffer: int, first_child: int) -> tuple[Parameter, ...]:
    """Sorted by the places that a module's own parameters, its own buffers and its children take in it."""
    keys: dict[str, tuple[int, ...]] = {"": ()}

    def key_of(module: str) -> tuple[int, ...]:
        if module not in keys:
            key = key_of(module.rpartition(".")[0])
            keys[module] = (*key, first_child + len(keys))
        return keys[module]

    def place(one: Parameter) -> tuple[int, ...]:
        return (*key_of(one.name.rpartition(".")[0]), buffer if one.buffer else own)

    # `sorted` asks for all places first, in this order: modules are numbered as they are met.
    return tuple(sorted(parameters, key=place))
