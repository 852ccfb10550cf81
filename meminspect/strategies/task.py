"""What is to be loaded, and how: the input of every recipe and every theory."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect.architectures import detect
from meminspect.collection import collection_paused
from meminspect.dtypes import FLOATING, bytes_of
from meminspect.sampling.interpreter import OURS, Interpreter
from meminspect.strategies.coarse import coarse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from meminspect.architectures.model import Architecture, Parameter
    from meminspect.checkpoint.model import Checkpoint, StoredTensor

__all__ = ["CASTABLE", "TRUSTS", "LoadOptions", "LoadTask", "task_for"]

CASTABLE: Final = ("float32", "float16", "bfloat16", "float64")
"""The dtypes that a model can be built in or cast to."""


TRUSTS: Final = "pickles are trusted: loading one runs whatever code it names, with all that you may do"
"""What --trust-pickle means, for whoever has said it."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The user's choices.

    `dtype` is the dtype that the loaded model shall have, None for the checkpoint's own; `init_dtype` is the one in
    which strategies that build a model first build it. `trust_pickle` lets a pickle run whatever code it names.
    """

    device: str = "cpu"
    dtype: str | None = None
    init_dtype: str = "float32"
    trust_pickle: bool = False
    interpreter: Interpreter = OURS

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> LoadOptions:
        """The inverse of `dataclasses.asdict`."""
        return LoadOptions(**{**fields, "interpreter": Interpreter.from_document(fields["interpreter"])})


@dataclass(frozen=True)
class LoadTask:
    """A checkpoint, the architecture it holds and the options."""

    checkpoint: Checkpoint
    architecture: Architecture
    options: LoadOptions
    note: str = ""  # what had to be assumed about the architecture

    @functools.cached_property
    def coarse(self) -> LoadTask:
        """What theories are worked out for: itself, unless it has very many tensors."""
        return coarse(self)

    @functools.cached_property
    def tensors_by_file(self) -> tuple[tuple[StoredTensor, ...], ...]:
        """The tensors of each file, in reading order."""
        files: list[list[StoredTensor]] = [[] for _ in self.checkpoint.files]
        for tensor in self.checkpoint.tensors:
            files[tensor.storage.file].append(tensor)
        return tuple(map(tuple, files))

    @functools.cached_property
    def pieces(self) -> dict[str, tuple[StoredTensor, ...]]:
        """The stored tensors of each name: one, or in model-parallel files one a file."""
        pieces: dict[str, list[StoredTensor]] = defaultdict(list)
        for tensor in self.checkpoint.tensors:
            pieces[tensor.name].append(tensor)
        return {name: tuple(tensors) for name, tensors in pieces.items()}

    @functools.cached_property
    def split_dims(self) -> dict[str, int | None]:
        """The dimension along which model-parallel files slice each tensor; None: every file has it whole."""
        return {parameter.name: parameter.split_dim for parameter in self.architecture.parameters}

    @functools.cached_property
    def loading_order(self) -> tuple[Parameter, ...]:
        """The model's parameters in the order in which `load_state_dict` meets them.

        It takes a module's own parameters, then its own buffers, then its children (torch/nn/modules/module.py,
        `_load_from_state_dict`), where construction may have registered a buffer after a child.
        """
        order: dict[str, tuple[int, ...]] = {}
        seen: dict[str, int] = {}
        for parameter in self.architecture.parameters:
            *modules, _ = parameter.name.split(".")
            prefix, key = "", []
            for module in modules:
                prefix = f"{prefix}.{module}"
                key.append(2 + seen.setdefault(prefix, len(seen)))
            order[parameter.name] = (*key, 1 if parameter.buffer else 0)
        return tuple(sorted(self.architecture.parameters, key=lambda parameter: order[parameter.name]))

    @functools.cached_property
    def floor_bytes(self) -> int:
        """T: what the loaded model must occupy, tied parameters once."""
        return sum(
            bytes_of(self.target_dtype(parameter), parameter.elements)
            for parameter in self.architecture.parameters
            if parameter.tied_to is None
        )

    @functools.cached_property
    def casts(self) -> bool:
        """Whether the chosen dtype changes any of the checkpoint's tensors."""
        return any(self.cast_dtype(tensor.dtype) != tensor.dtype for tensor in self.checkpoint.tensors)

    def initial_dtype(self, parameter: Parameter) -> str:
        """The dtype in which a parameter is built."""
        return parameter.dtype or self.options.init_dtype

    def target_dtype(self, parameter: Parameter) -> str:
        """The dtype that a parameter shall have in the end."""
        pieces = self.pieces.get(parameter.name)
        stored = pieces[0].dtype if pieces else self.initial_dtype(parameter)
        return self.cast_dtype(stored)

    def cast_dtype(self, stored: str) -> str:
        """What a stored dtype becomes: the chosen one for floating types, itself for all others."""
        return self.options.dtype if self.options.dtype and stored in FLOATING else stored


def task_for(checkpoint: Checkpoint, options: LoadOptions) -> LoadTask:
    """Recognise the checkpoint's architecture.

    Raises:
        CheckpointError: its configuration is absurd, or slices are of no known architecture.
    """
    parallel_files = len(checkpoint.files) if checkpoint.parallel_files else 1
    with collection_paused():
        tensors = {tensor.name: (tensor.shape, tensor.dtype) for tensor in checkpoint.tensors}
        found = detect(checkpoint.config, tensors, checkpoint.tied, parallel_files)
    return LoadTask(checkpoint, found.architecture, options, found.note)
