"""A module tree made from a checkpoint's names and shapes, for everything that is no known architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.architectures.family import quoted
from meminspect.architectures.model import Architecture, Parameter
from meminspect.dtypes import FLOATING
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from meminspect.architectures.family import Headers

__all__ = ["ID", "architecture"]

ID = "skeleton"
_MAX_DEPTH = 64  # torch walks modules recursively: a name of 10,000 dots would end in RecursionError


def architecture(headers: Headers) -> Architecture:
    """Every tensor in the checkpoint's order: floating ones are parameters, all others buffers.

    Raises:
        CheckpointError: the files are slices (nothing says how they join), or the names make no tree.
    """
    if headers.parallel_files > 1:
        raise CheckpointError(
            f"its {headers.parallel_files} files are slices of one model that is not a known architecture",
            "merge them first: nothing says along which dimension each tensor was cut",
        )
    first_of = _first_of_tied(headers)
    parameters: list[Parameter] = []
    new = tuple.__new__  # of a million, takes a third of the time that the class's own takes
    for name, (shape, dtype) in headers.tensors.items():
        if name.count(".") >= _MAX_DEPTH:
            raise CheckpointError(f"{quoted(name)} is nested more than {_MAX_DEPTH} deep")
        own_dtype = None if dtype in FLOATING else dtype
        fields = (name, shape, own_dtype is not None, own_dtype, None, first_of.get(name), "", False, True)
        parameters.append(new(Parameter, fields))
    return Architecture(ID, "checkpoint", {}, tuple(parameters))


def _first_of_tied(headers: Headers) -> dict[str, str]:
    """Each tied name, other than a group's first, with that first one."""
    if not headers.tied:
        return {}
    order = {name: index for index, name in enumerate(headers.tensors)}
    tied: dict[str, str] = {}
    for group in headers.tied:
        first, *others = sorted({name for name in group if name in order}, key=order.__getitem__) or [""]
        # The same bytes under another type are no tie that a Parameter could express.
        tied.update((name, first) for name in others if headers.tensors[name] == headers.tensors[first])
    return tied
