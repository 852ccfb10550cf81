"""What every architecture offers to the registry, and the plain header data from which one is recognised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meminspect.architectures.model import Architecture, Parameter
from meminspect.dtypes import FLOATING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    TensorHeader: TypeAlias = "tuple[tuple[int, ...], str]"  # shape, torch's dtype name
    Recognised: TypeAlias = "Architecture | str | None"

__all__ = ["Detection", "Family", "Headers", "buffer", "mismatch", "quoted"]


@dataclass(frozen=True)
class Headers:
    """A checkpoint as its headers tell it; without tensors it stands for one that is yet to be written.

    With `parallel_files` > 1 the shapes are those of the slices, which are alike in all the files.
    """

    config: Mapping[str, object] | None = None  # params.json or config.json
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)  # in the checkpoint's order
    tied: Sequence[Sequence[str]] = ()  # groups of names that share one memory
    parallel_files: int = 1

    def share(self, first: str, second: str) -> bool:
        """Whether the two names are the same memory in the checkpoint."""
        return any(first in group and second in group for group in self.tied)


@dataclass(frozen=True)
class Detection:
    """The architecture of a checkpoint, and what kept it from being a known one or had to be assumed."""

    architecture: Architecture
    note: str = ""


@dataclass(frozen=True)
class Family:
    """An architecture's entry in the registry; each lives in a file named after its id."""

    id: str
    summary: str
    namings: tuple[str, ...]  # the first is the default
    from_config: Callable[[Mapping[str, object], str, Headers], Architecture]  # config, naming, headers
    for_parameters: Callable[[int, str], dict[str, object]]  # count, naming → config
    # The architecture, a line that says why one that looks like it is not supported, or None for "not mine".
    recognise: Callable[[Headers], Recognised]

    def architecture(self, config: Mapping[str, object], naming: str, headers: Headers | None = None) -> Architecture:
        """The architecture that a config describes.

        Args:
            config: hyper-parameters as the naming's own file spells them.
            naming: one of `namings`.
            headers: settles what a config leaves open (a tied head's name, buffers, a vocabulary of -1).

        Raises:
            CheckpointError: a field is missing or absurd.
        """
        return self.from_config(config, naming, headers or Headers())


def buffer(name: str, shape: tuple[int, ...], headers: Headers) -> Parameter:
    """A persistent buffer: floating ones follow the model's dtype, others keep the one they are stored in."""
    dtype = headers.tensors[name][1] if name in headers.tensors else None
    return Parameter(name, shape, buffer=True, dtype=None if dtype in FLOATING else dtype)


def mismatch(architecture: Architecture, headers: Headers) -> str | None:
    """The first difference between an architecture and a checkpoint's tensors, in words; None for none."""
    declared = {parameter.name: parameter for parameter in architecture.parameters}
    for name in headers.tensors:
        if name not in declared or not declared[name].saved:
            return f"the model has no tensor {quoted(name)}"
    for name, parameter in declared.items():
        if not parameter.saved:
            continue
        if name not in headers.tensors:
            return f"the checkpoint has no tensor {quoted(name)}"
        shape, dtype = headers.tensors[name]
        expected = _slice(parameter, headers.parallel_files)
        if shape != expected:
            return f"{quoted(name)} is {list(shape)} and should be {list(expected)}"
        if not parameter.buffer and parameter.dtype is None and dtype not in FLOATING:
            return f"{quoted(name)} is stored as {dtype}"
    return None


def quoted(name: object) -> str:
    """A name from a hostile file, short and on one line."""
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:90]}…{text[-9:]}"


def _slice(parameter: Parameter, files: int) -> tuple[int, ...]:
    """The shape of one file's slice; an indivisible dimension gives a shape that no slice has."""
    if parameter.split_dim is None or files == 1:
        return parameter.shape
    whole, rest = divmod(parameter.shape[parameter.split_dim], files)
    sizes = list(parameter.shape)
    sizes[parameter.split_dim] = -1 if rest else whole
    return tuple(sizes)
