"""A quantised weight read back: what its values stand for, and how far from the original they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from meminspect.nf4 import NF4_BLOCK, NF4_CODES

if TYPE_CHECKING:
    from meminspect.architectures.model import Parameter

__all__ = ["ERROR_BOUNDS", "QuantisedView"]

_CODES: Final = torch.tensor(NF4_CODES)
_HALF: Final = NF4_BLOCK // 2
_BLOCKS: Final = 1 << 15  # of nf4, looked at together: some MiB
_INT8_STEPS: Final = 127
_ROUNDING: Final = 1e-4  # of a scale: what division and product in float32 may add
_TINY: Final = 1e-30  # the scale of a group that is all zeros

ERROR_BOUNDS: Final = {
    "int8": 0.5 / _INT8_STEPS,  # half a step
    "nf4": float((_CODES[1:] - _CODES[:-1]).max()) / 2,  # half of the widest gap between two codes
}
"""How far a dequantised value may be from the original, as a share of the largest absolute value of its group."""


class QuantisedView(NamedTuple):
    """A rectangle of a quantised weight in the orientation of the stored tensor, with what verification asks of it.

    `narrow` cuts it like a tensor, and only `matches` dequantises, just this rectangle.
    """

    values: torch.Tensor  # int8 (out, in), or uint8 (blocks, 32)
    scale: torch.Tensor  # float32, (out, 1) or (blocks, 1)
    parameter: Parameter
    start: tuple[int, int]
    shape: tuple[int, int]
    built: torch.dtype | None  # in which the weight was there before it was quantised; None: as it is stored
    slack_steps: float = 0  # by how much more than its error bound a value may be off: of scales in half precision

    @classmethod
    def whole(
        cls, values: torch.Tensor, scale: torch.Tensor, parameter: Parameter, built: torch.dtype | None = None
    ) -> QuantisedView:
        """All of it, in the orientation in which it is stored."""
        rows, columns = parameter.shape
        return cls(values, scale, parameter, (0, 0), (rows, columns), built)

    @property
    def kind(self) -> str:
        """`int8` or `nf4`."""
        return "int8" if self.values.dtype is torch.int8 else "nf4"

    def dim(self) -> int:
        """Number of dimensions."""
        return 2

    def narrow(self, dim: int, start: int, length: int) -> QuantisedView:
        """The part of it from an index on along a dimension."""
        begin, shape = list(self.start), list(self.shape)
        begin[dim] += start
        shape[dim] = length
        return self._replace(start=(begin[0], begin[1]), shape=(shape[0], shape[1]))

    def is_sound(self) -> bool:
        """Whether each group's largest value uses the whole range, so that no scale is larger than need be."""
        if self.kind == "int8":
            largest = torch.maximum(self.values.amax(1).int(), -self.values.amin(1).int())  # -128 has no opposite
            full = largest >= _INT8_STEPS
        else:
            full = torch.cat([_has_extreme(blocks) for blocks in torch.split(self.values, _BLOCKS)])
        return bool((full | (self.scale[:, 0] <= _TINY)).all())

    def matches(self, data: torch.Tensor) -> bool:
        """Whether every value of this rectangle is the stored one to within the quantisation's error bound."""
        values, largest = self._dequantised()
        bound = (ERROR_BOUNDS[self.kind] + (_ROUNDING + self.slack_steps) / _INT8_STEPS) * largest
        original = data.to(self.built or data.dtype).to(torch.float32)
        return bool(((values - original).abs() <= bound).all())

    def _dequantised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The values of this rectangle, and the largest absolute value of each one's group."""
        transposed = self.parameter.transposed
        (row, column), (rows, columns) = (
            tuple(reversed(pair)) if transposed else pair for pair in (self.start, self.shape)
        )
        take = self._int8 if self.kind == "int8" else self._nf4
        values, largest = take(row, rows, column, columns)
        return (values.T, largest.T) if transposed else (values, largest)

    def _int8(self, row: int, rows: int, column: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.scale.narrow(0, row, rows).cpu()
        values = self.values.narrow(0, row, rows).narrow(1, column, columns).cpu()
        return values * scale, scale * _INT8_STEPS

    def _nf4(self, row: int, rows: int, column: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        width = self.parameter.shape[0 if self.parameter.transposed else 1]
        packed, scale = self.values, self.scale
        if width % NF4_BLOCK == 0:  # no block lies across rows: those that the rectangle touches will do
            first, last = column // NF4_BLOCK, -(-(column + columns) // NF4_BLOCK)
            packed = packed.view(-1, width // NF4_BLOCK, _HALF)[row : row + rows, first:last]
            scale = scale.view(-1, width // NF4_BLOCK, 1)[row : row + rows, first:last]
            row, column, width = 0, column - first * NF4_BLOCK, (last - first) * NF4_BLOCK
        packed, scale = packed.cpu(), scale.cpu()
        values = _CODES[_codes(packed).int()] * scale
        values, largest = (
            tensor.reshape(-1, width).narrow(0, row, rows).narrow(1, column, columns)
            for tensor in (values, scale.expand_as(values))
        )
        return values, largest


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """Two codes from each byte, the high one first."""
    return torch.stack((packed >> 4, packed & 15), -1).flatten(-2)


def _has_extreme(packed: torch.Tensor) -> torch.Tensor:
    """For each block whether one of its codes stands for −1 or 1."""
    codes = _codes(packed)
    return ((codes == 0) | (codes == len(NF4_CODES) - 1)).any(-1)
