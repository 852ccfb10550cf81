"""What is to be loaded, and how: the input of every recipe and every theory."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect.architectures.own import OwnModel
from meminspect.capture.records import Pool
from meminspect.collection import collection_paused
from meminspect.devices import PINNED_KINDS, kind_of
from meminspect.dtypes import FLOATING, bytes_of
from meminspect.sampling.interpreter import OURS, Interpreter
from meminspect.strategies.grouping import Grouped, grouped
from meminspect.strategies.module_order import conversion_order, loading_order
from meminspect.strategies.recognition import recognised

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

    from meminspect.architectures.model import Architecture, Parameter
    from meminspect.checkpoint.model import Checkpoint, StoredTensor

__all__ = ["CASTABLE", "QUANTISATIONS", "READ_TO", "TRUSTS", "LoadOptions", "LoadTask", "task_for"]

CASTABLE: Final = ("float32", "float16", "bfloat16", "float64")
"""The dtypes that a model can be built in or cast to."""

READ_TO: Final = ("device", "host")
"""Where a state dict can be read to that is copied into a model on a device."""

QUANTISATIONS: Final = ("int8", "nf4")
"""What linear layers can be quantised to: see `strategies.quantisation`."""

TRUSTS: Final = "pickles are trusted: loading one runs whatever code it names, with all that you may do"
"""What --trust-pickle means, for whoever has said it."""

_FEW: Final = 4096  # tensors that every theory may as well name one by one


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The user's choices.

    `dtype` is the dtype that the loaded model shall have, None for the checkpoint's own; `init_dtype` is the one in
    which strategies that build a model first build it. `read_to` is where those that copy a whole state dict into a
    model on a device read it to. `quantisation` is what those that quantise make of linear layers. `trust_pickle` lets
    a pickle run whatever code it names. `model` is the user's own, None for what the checkpoint is recognised as.
    `max_memory_bytes` is how much of the model may stay on the device where a strategy can leave the rest on disk, None
    for all of it. `read_ahead` is how a strategy that maps files brings their pages in before they are touched (see
    `meminspect.stream.read_ahead`), None for not at all.
    """

    device: str = "cpu"
    dtype: str | None = None
    init_dtype: str = "float32"
    read_to: str = "device"
    quantisation: str = "int8"
    trust_pickle: bool = False
    interpreter: Interpreter = OURS
    model: OwnModel | None = None
    max_memory_bytes: int | None = None
    read_ahead: str | None = None

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> LoadOptions:
        """The inverse of `dataclasses.asdict`."""
        interpreter, model = Interpreter.from_document(fields["interpreter"]), fields.get("model")
        own = None if model is None else OwnModel.from_document(model)
        return LoadOptions(**{**fields, "interpreter": interpreter, "model": own})


@dataclass(frozen=True)
class LoadTask:
    """A checkpoint, the architecture it holds and the options."""

    checkpoint: Checkpoint
    architecture: Architecture
    options: LoadOptions
    note: str = ""  # what had to be assumed about the architecture

    @functools.cached_property
    def grouped(self) -> Grouped:
        """The task with few tensors that has the same theory; itself where it has few already."""
        return grouped(self) if len(self.checkpoint.tensors) > _FEW else Grouped(self, {})

    @functools.cached_property
    def pool(self) -> Pool:
        """Where the loaded model lives."""
        return Pool.HEAP if self.options.device == "cpu" else Pool.VRAM

    @property
    def pins(self) -> bool:
        """Whether what goes to the device goes through page-locked memory, where the reader may choose."""
        return kind_of(self.options.device) in PINNED_KINDS

    @property
    def reads_to_device(self) -> bool:
        """Whether a whole state dict that is copied into a model on a device is read to that device too."""
        return self.pool is Pool.VRAM and self.options.read_to == "device"

    @functools.cached_property
    def tensors_by_file(self) -> tuple[tuple[StoredTensor, ...], ...]:
        """The model's tensors in each file."""
        return self._by_file(self.checkpoint.tensors)

    @functools.cached_property
    def beside_by_file(self) -> tuple[tuple[StoredTensor, ...], ...]:
        """The tensors of each file that are not the model's."""
        return self._by_file(self.checkpoint.beside)

    def _by_file(self, tensors: Iterable[StoredTensor]) -> tuple[tuple[StoredTensor, ...], ...]:
        files: list[list[StoredTensor]] = [[] for _ in self.checkpoint.files]
        for tensor in tensors:
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
    def parameters(self) -> dict[str, Parameter]:
        """The model's parameters by name."""
        return {parameter.name: parameter for parameter in self.architecture.parameters}

    @functools.cached_property
    def loading_order(self) -> tuple[Parameter, ...]:
        """The model's parameters in the order in which `load_state_dict` meets them."""
        return loading_order(self.architecture.parameters)

    @functools.cached_property
    def loading_places(self) -> dict[str, int]:
        """Each parameter's place in that order, by name."""
        return {parameter.name: place for place, parameter in enumerate(self.loading_order)}

    @functools.cached_property
    def conversion_order(self) -> tuple[Parameter, ...]:
        """The same in the order in which `model.to` meets them."""
        return conversion_order(self.architecture.parameters)

    @functools.cached_property
    def floor_bytes(self) -> int:
        """T: what the loaded model must occupy, tied parameters once."""
        few = self.grouped
        return sum(
            few.copies.get(parameter.name, 1) * bytes_of(few.task.target_dtype(parameter), parameter.elements)
            for parameter in few.task.architecture.parameters
            if parameter.tied_to is None
        )

    def target_bytes(self, names: Collection[str]) -> int:
        """What parameters of these names must occupy, tied ones once."""
        found = [self.parameters[name] for name in names]
        return sum(bytes_of(self.target_dtype(one), one.elements) for one in found if one.tied_to is None)

    @functools.cached_property
    def unsaved(self) -> tuple[Parameter, ...]:
        """The buffers that no state dict holds: only the model's constructor knows their values."""
        return tuple(parameter for parameter in self.architecture.parameters if not parameter.saved)

    @functools.cached_property
    def linears(self) -> tuple[Parameter, ...]:
        """The weights of linear layers."""
        return tuple(parameter for parameter in self.architecture.parameters if parameter.linear)

    @functools.cached_property
    def casts(self) -> bool:
        """Whether the chosen dtype changes any of the checkpoint's tensors."""
        return any(self.cast_dtype(stored) != stored for stored in self.checkpoint.dtypes)

    @functools.cached_property
    def main_dtype(self) -> str:
        """The one dtype that suits the model: the chosen one, else that of the checkpoint's largest floating tensor."""
        floating = (tensor for tensor in self.checkpoint.tensors if tensor.dtype in CASTABLE)
        largest = max(floating, key=lambda tensor: tensor.nbytes, default=None)
        return self.options.dtype or (self.options.init_dtype if largest is None else largest.dtype)

    def built_in(self, dtype: str) -> LoadTask:
        """The same with a model that is built in another dtype."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, init_dtype=dtype))

    def untied(self) -> LoadTask:
        """The same with a model whose tied parameters have come apart: `to_empty` gives memory to each."""
        parameters = tuple(one._replace(tied_to=None) for one in self.architecture.parameters)
        return dataclasses.replace(self, architecture=dataclasses.replace(self.architecture, parameters=parameters))

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
    """Recognise the checkpoint's architecture, or hold it against the user's own model.

    Raises:
        CheckpointError: its configuration is absurd, slices are of no known architecture, or it is another model's.
    """
    with collection_paused():
        checkpoint, found = recognised(checkpoint, options.model)
    return LoadTask(checkpoint, found.architecture, options, found.note)
