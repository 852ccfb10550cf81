"""What an architecture says of a model without building it: its parameters and buffers by name and shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Architecture", "Parameter"]


class Parameter(NamedTuple):  # a million in the largest skeletons: a frozen dataclass takes four times as long to make
    """A parameter or buffer of the built model."""

    name: str
    shape: tuple[int, ...]
    buffer: bool = False
    dtype: str | None = None  # None: floating, in whatever dtype the model is built in
    split_dim: int | None = None  # the dimension that model-parallel files slice; None: each has it whole
    tied_to: str | None = None  # the earlier parameter whose memory this one is
    linear: str = ""  # the weight of a linear layer: of an "attention", of a "feed-forward" or the "head"; else empty
    transposed: bool = False  # a linear layer's weight that is (in, out), as GPT-2's Conv1D has it
    saved: bool = True  # whether a state dict holds it: not so a buffer that is not persistent

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Architecture:
    """A model as its headers describe it. `worker.models` builds the very same one with torch."""

    id: str  # "llama", "gpt2", "skeleton", or "module:factory" of the user's
    naming: str  # whose tensor names: "meta", "hf", "teaching", "litgpt"; "checkpoint" for a skeleton, "own" for theirs
    config: Mapping[str, object]  # the hyper-parameters, as the naming's own config file spells them
    parameters: tuple[Parameter, ...]  # in the order in which the module registers (and allocates) them

    @property
    def elements(self) -> int:
        """Elements of all parameters and buffers, tied ones once."""
        return sum(parameter.elements for parameter in self.parameters if parameter.tied_to is None)
