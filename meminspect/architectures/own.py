"""A model that the user names as `module:factory`: what a worker has found in it, and whether a checkpoint fits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meminspect.architectures.family import Detection, mismatch
from meminspect.architectures.model import Architecture, Parameter
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures.family import Headers

__all__ = ["NAMING", "OwnModel"]

NAMING = "own"


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A class or function that builds a model. Only a worker imports it; `parameters` is what it has found.

    Args:
        name: "module:factory", as the user names it.
        folder: where the module is looked for before anywhere else: the current folder when it was named.
        parameters: in the order in which the model has them; None while nobody has asked.
        takes_config: whether it is called with the checkpoint's config rather than with nothing.
    """

    name: str
    folder: str
    parameters: tuple[Parameter, ...] | None = None
    takes_config: bool = False

    @property
    def call(self) -> str:
        """How it is called, as Python has it."""
        return f"{self.name.replace(':', '.')}({'config' if self.takes_config else ''})"

    def detection(self, headers: Headers) -> Detection:
        """The model as the architecture of a checkpoint.

        Raises:
            CheckpointError: the checkpoint's tensors are not the model's.
        """
        if headers.parallel_files > 1:
            raise CheckpointError(
                f"its {headers.parallel_files} files are slices of one model, and {self.name} does not say how to join",
                "merge them first, or leave --model out",
            )
        architecture = Architecture(self.name, NAMING, headers.config or {}, self.parameters or ())
        difference = mismatch(architecture, headers)
        if difference is not None:
            raise CheckpointError(
                f"{self.name} is not this checkpoint's model: {difference}",
                "name another with --model, or leave it out",
            )
        return Detection(
            architecture, f"built by {self.call}: theory knows its tensors, not what else its code may take in memory"
        )

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> OwnModel:
        """The inverse of `dataclasses.asdict`."""
        found = fields["parameters"]
        parameters = None
        if found is not None:
            parameters = tuple(Parameter(name, tuple(shape), *others) for name, shape, *others in found)
        return OwnModel(**{**fields, "parameters": parameters})
