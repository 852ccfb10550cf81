"""The user's own model: imported as `python -m` would find it, and described without memory."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from meminspect.architectures.model import Parameter
from meminspect.errors import UsageError
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from meminspect.architectures.own import OwnModel

__all__ = ["build", "described"]

_LONGEST_ERROR = 200


def described(own: OwnModel, config: Mapping[str, object]) -> OwnModel:
    """Build the model on the meta device and tell what it has.

    Args:
        own: which model.
        config: the checkpoint's config, for a factory that wants it.

    Raises:
        UsageError: it cannot be imported or built, or is no model.
    """
    factory = _factory(own)
    own = replace(own, takes_config=_takes_config(own.name, factory, config))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as nobody asks for: what has it follows the default
    try:
        with torch.device("meta"):
            model = _called(own, factory, config)
    except Exception as error:
        raise UsageError(
            f"{own.name} raised {_words(error)}",
            f"it is called as {own.call}, on the meta device, where tensors have shapes and no values",
        ) from error
    finally:
        torch.set_default_dtype(before)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{own.name} returned a {type(model).__name__}, not a torch.nn.Module", _HINT)
    return replace(own, parameters=tuple(_parameters(model)))


def build(own: OwnModel, config: Mapping[str, object]) -> nn.Module:
    """The model as its factory makes it, on the device and in the dtype in context."""
    model: nn.Module = _called(own, _factory(own), config)
    return model


_HINT = "name a class, or a function that returns the model, as --model package.module:function"


def _called(own: OwnModel, factory: Callable[..., Any], config: Mapping[str, object]) -> Any:
    if not own.takes_config:
        return factory()
    config_class = getattr(factory, "config_class", None)  # transformers' models take their config as that
    return factory(config if config_class is None else config_class.from_dict(dict(config)))


def _factory(own: OwnModel) -> Callable[..., Any]:
    if own.folder not in sys.path:
        sys.path.insert(0, own.folder)
    module_name, _, path = own.name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"importing {module_name} raised {_words(error)}", "does --python name its Python?"
            ) from error
        where = shown(own.folder, 160, keep_end=True)
        raise UsageError(
            f"there is no module '{error.name}'", f"it is looked for in {where}, then in the environment of the worker"
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"importing {module_name} raised {_words(error)}", f"try: python -c 'import {module_name}'"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no '{path}'", _HINT)
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise UsageError(f"{own.name} is a model that is built already, with memory", _HINT)
    if not callable(found):
        raise UsageError(f"{own.name} is a {type(found).__name__}", _HINT)
    factory: Callable[..., Any] = found
    return factory


def _takes_config(name: str, factory: Callable[..., Any], config: Mapping[str, object]) -> bool:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of something that is written in C
        return False
    for arguments in ((), (config,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise UsageError(
        f"{name}{signature} wants more than a config",
        "write a function that takes nothing, or the checkpoint's config, and returns the model",
    )


def _parameters(model: nn.Module) -> Iterator[Parameter]:
    first_of: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            full = f"{path}.{name}" if path else name
            first = first_of.setdefault(id(tensor), full)
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield Parameter(
                full,
                tuple(tensor.shape),
                buffer=name in module._buffers,
                dtype=None if tensor.dtype == torch.float64 else dtype,
                tied_to=None if first == full else first,
                saved=name not in module._non_persistent_buffers_set,
            )


def _words(error: BaseException) -> str:
    """An exception in a line."""
    text = str(error).strip().partition("\n")[0]
    return shown(f"{type(error).__name__}: {text}" if text else type(error).__name__, _LONGEST_ERROR)
