"""Quantised linear layers: the class that recipes carry, what it takes, and the order in which it comes about.

int8 is the absmax quantisation of LLM.int8() (arXiv:2208.07339) with a scale for each row and no outliers apart; nf4 is
the 4-bit NormalFloat of QLoRA (arXiv:2305.14314, appendix E has its 16 values) without double quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect import staging
from meminspect.capture.records import Operation
from meminspect.dtypes import bytes_of
from meminspect.nf4 import NF4_BLOCK, NF4_CODES
from meminspect.text import shown
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = [
    "CLASSES",
    "as_rows",
    "floor_bytes",
    "group",
    "kept",
    "last_phase",
    "layer_class",
    "quantised",
    "scale_name",
    "scratch_bytes",
    "sizes",
    "steps",
    "which",
    "why_not",
]

_ROWS: Final = 256  # are quantised at a time: a multiple of NF4_BLOCK, so that no block of nf4 is cut
_FLOAT_BYTES: Final = 4

_CODE_LINES: Final = "\n    ".join(
    " ".join(f"{code}," for code in NF4_CODES[first : first + 4]) for first in range(0, len(NF4_CODES), 4)
)

_INT8: Final = f"""
class QuantisedLinear(nn.Module):
    # A linear layer of int8 weights, with a float scale for each row. `quantise` gives it values.
    def __init__(self, linear):
        super().__init__()
        self.shape = WEIGHT.shape
        self.register_buffer("weight", torch.empty(self.shape, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(self.shape[0], 1, dtype=torch.float32, device="meta"))
        self.bias = linear.bias

    def quantise(self, weight):
        self.weight = weight.new_empty(self.weight.shape, dtype=torch.int8)
        self.scale = weight.new_empty(self.scale.shape, dtype=torch.float32)
        for rows, values, scale in zip(weight.split({_ROWS}), self.weight.split({_ROWS}), self.scale.split({_ROWS})):
            block = rows.to(torch.float32, copy=True)
            torch.linalg.vector_norm(block, torch.inf, 1, keepdim=True, out=scale)
            scale.div_(127).clamp_(min=1e-30)
            values.copy_(block.div_(scale).round_())
            del block  # before the next one is made

    def forward(self, x):
        return nn.functional.linear(x, (self.weight * self.scale).to(x.dtype), self.bias)
"""

_NF4: Final = f"""
CODES = torch.tensor([
    {_CODE_LINES}
], device=DEVICE)
BOUNDS = (CODES[1:] + CODES[:-1]) / 2

class QuantisedLinear(nn.Module):
    # A linear layer of 4-bit weights, two a byte, with a float scale for each 64. `quantise` gives it values.
    def __init__(self, linear):
        super().__init__()
        self.shape = WEIGHT.shape
        blocks = self.shape.numel() // {NF4_BLOCK}
        self.register_buffer("weight", torch.empty(blocks, {NF4_BLOCK // 2}, dtype=torch.uint8, device="meta"))
        self.register_buffer("scale", torch.empty(blocks, 1, dtype=torch.float32, device="meta"))
        self.bias = linear.bias

    def quantise(self, weight):
        self.weight = weight.new_empty(self.weight.shape, dtype=torch.uint8)
        self.scale = weight.new_empty(self.scale.shape, dtype=torch.float32)
        blocks = {_ROWS // NF4_BLOCK} * self.shape[1]  # in {_ROWS} rows
        for rows, values, scale in zip(weight.split({_ROWS}), self.weight.split(blocks), self.scale.split(blocks)):
            block = rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format).view(-1, {NF4_BLOCK})
            torch.linalg.vector_norm(block, torch.inf, 1, keepdim=True, out=scale)
            scale.clamp_(min=1e-30)
            codes = torch.bucketize(block.div_(scale), BOUNDS, out_int32=True)
            values.copy_(codes[:, ::2].mul_(16).add_(codes[:, 1::2]))
            del block, codes  # before the next ones are made

    def forward(self, x):
        codes = torch.stack((self.weight >> 4, self.weight & 15), -1).flatten(1)
        weight = (CODES[codes.int()] * self.scale).view(self.shape)
        return nn.functional.linear(x, weight.to(x.dtype), self.bias)
"""


CLASSES: Final = {"int8": _INT8, "nf4": _NF4}
"""The class of a quantised linear layer; WEIGHT stands for its weight as (out, in), and DEVICE for its device."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A linear layer's weight as (out, in)."""

    rows: int
    columns: int

    @property
    def elements(self) -> int:
        return self.rows * self.columns


def _shape(parameter: Parameter) -> _Shape:
    rows, columns = reversed(parameter.shape) if parameter.transposed else parameter.shape
    return _Shape(rows, columns)


def quantised(task: LoadTask) -> dict[str, Parameter]:
    """The parameters that are quantised, by name: the weights of linear layers but the head's, which stays as it is."""
    return {parameter.name: parameter for parameter in task.linears if parameter.linear != "head"}


def scale_name(weight: str) -> str:
    """The buffer that the scales of a weight are in."""
    return f"{weight.rpartition('.')[0]}.scale"


def why_not(task: LoadTask) -> str | None:
    """In one sentence why a task's model cannot be quantised; None when it can."""
    layers = quantised(task)
    if not layers:
        return "nobody knows which tensors of a model of unknown architecture are those of linear layers"
    if task.options.quantisation == "nf4":
        for parameter in layers.values():
            if parameter.elements % NF4_BLOCK:
                return f"nf4 takes {NF4_BLOCK} values at a time, and {shown(parameter.name)} has {parameter.elements}"
    return None


def group(task: LoadTask, parameter: Parameter) -> int:
    """How many values of a weight share a scale."""
    return NF4_BLOCK if task.options.quantisation == "nf4" else _shape(parameter).columns


def scratch_bytes(task: LoadTask, parameter: Parameter) -> int:
    """What each thread of our own reader quantises a weight in."""
    return staging.scratch_bytes(task.options.quantisation, group(task, parameter))


def sizes(task: LoadTask, parameter: Parameter) -> tuple[int, int]:
    """Bytes of a quantised weight's values, and of their scales."""
    shape = _shape(parameter)
    if task.options.quantisation == "nf4":
        return shape.elements // 2, shape.elements // NF4_BLOCK * _FLOAT_BYTES
    return shape.elements, shape.rows * _FLOAT_BYTES


def floor_bytes(task: LoadTask) -> int:
    """Q: what the model must occupy with its linear layers quantised."""
    return task.floor_bytes + sum(
        sum(sizes(task, parameter)) - bytes_of(task.target_dtype(parameter), parameter.elements)
        for parameter in quantised(task).values()
    )


def layer_class(task: LoadTask) -> str:
    """The class of a quantised linear layer, as a recipe has it."""
    text = CLASSES[task.options.quantisation].replace("DEVICE", repr(task.options.device))
    return text.replace("WEIGHT", as_rows(task, "linear.weight"))


def as_rows(task: LoadTask, weight: str) -> str:
    """The expression for a weight as (out, in), whichever way it is stored."""
    return f"{weight}.T" if _transposed(task) else weight


def which(task: LoadTask) -> str:
    """The expression that says whether a `module` of a `name` is to be quantised, as a recipe has it."""
    if _transposed(task):
        return 'type(module).__name__ == "Conv1D"'
    head = kept(task)
    is_kept = f" and name != {head!r}" if head else ""
    return f"isinstance(module, nn.Linear){is_kept}"


def kept(task: LoadTask) -> str:
    """The name of the linear layer that stays as it is, the output head; empty where there is none."""
    heads = (parameter.name for parameter in task.architecture.parameters if parameter.linear == "head")
    return next(heads, "").rpartition(".")[0]


def _transposed(task: LoadTask) -> bool:
    return any(parameter.transposed for parameter in task.architecture.parameters)


def steps(task: LoadTask, parameter: Parameter, dtype: str, name: str) -> Iterator[Step]:
    """Quantise one weight: its values and scales, then block by block the copy in float32, and in nf4 the codes.

    Args:
        task: what to load.
        parameter: the weight.
        dtype: in which it is there.
        name: what its memory goes by.
    """
    shape = _shape(parameter)
    for nbytes in sizes(task, parameter):
        yield Step("quantise", Operation.MATERIALISE, task.pool, Item.QUANTISED, name, nbytes)
    phases = ["copy" if dtype == "float32" else "cast"]
    if task.options.quantisation == "nf4":
        phases.append("cast")
    full, rest = divmod(shape.rows, _ROWS)
    for times, rows in ((full, _ROWS), (1, rest)):
        nbytes = rows * shape.columns * _FLOAT_BYTES
        if times and rows:
            made = [
                Step(phase, Operation.MATERIALISE, task.pool, Item.STAGING, name, nbytes, times) for phase in phases
            ]
            yield from made
            yield from (step._replace(phase=phases[-1], operation=Operation.RELEASE) for step in made)


def last_phase(task: LoadTask, dtype: str) -> str:
    """The phase in which `steps` end."""
    return "copy" if dtype == "float32" and task.options.quantisation == "int8" else "cast"
