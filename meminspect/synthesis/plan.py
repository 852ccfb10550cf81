"""What is to be written: the spec, and the files it comes to, with every tensor's bytes still to be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.dtypes import BITS
from meminspect.errors import UsageError
from meminspect.synthesis.contents import source_of
from meminspect.synthesis.values import NoisePool, Zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from meminspect.architectures.model import Architecture, Parameter
    from meminspect.synthesis.output import Output
    from meminspect.synthesis.values import Source

__all__ = ["Layout", "Plan", "PlannedFile", "PlannedTensor", "SynthesisSpec", "balanced", "sliced", "whole"]

_SHORT = 1 << 16  # bytes up to which pieces are gathered: small enough for memory that is at hand


@dataclass(frozen=True, slots=True)
class SynthesisSpec:
    """A checkpoint to be written.

    The same seed, dtype and tensor name give the same bytes in every layout and for any number of shards.
    """

    out: Path  # a folder that does not exist or is empty
    architecture: Architecture  # its naming must be one that the layout takes
    layout: str  # a key of LAYOUTS
    dtype: str = "float16"  # of every parameter and buffer that has none of its own
    shards: int = 1  # files; for the layout "meta" the slices of a model-parallel checkpoint
    seed: int = 0
    sparse: bool = False  # all zeros, as holes that take no disk


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor as it will lie in one file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of tensors, and how it is written."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    write: Callable[[Output], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole checkpoint."""

    files: tuple[PlannedFile, ...]
    texts: Mapping[str, Mapping[str, object]]  # the JSON files beside them

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.source.nbytes for file in self.files for tensor in file.tensors)

    @property
    def header_nbytes(self) -> int:
        """More bytes than all that is not tensors takes, the file system's blocks included."""
        names = sum(len(tensor.name) for file in self.files for tensor in file.tensors)
        return sum(1024 * len(file.tensors) + 8192 for file in self.files) + 4 * names + 65536


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout's entry in the registry; each lives in a file of its own."""

    id: str
    summary: str
    namings: Mapping[str, tuple[str, ...]]  # by architecture; the first is the default
    plan: Callable[[SynthesisSpec], Plan]


def whole(spec: SynthesisSpec) -> Iterator[PlannedTensor]:
    """Yield every parameter and buffer that has memory of its own, in the order of the architecture."""
    pools: dict[str, NoisePool] = {}
    for parameter in spec.architecture.parameters:
        if parameter.tied_to is None:
            dtype = parameter.dtype or spec.dtype
            pool = pools.setdefault(dtype, NoisePool(spec.seed, dtype))
            yield PlannedTensor(parameter.name, dtype, parameter.shape, _source(spec, parameter, pool))


def _source(spec: SynthesisSpec, parameter: Parameter, pool: NoisePool) -> Source:
    if spec.sparse:
        return Zeros(parameter.elements * BITS[pool.dtype] // 8)
    return source_of(parameter, pool, spec.architecture.config)


def balanced(tensors: Sequence[PlannedTensor], shards: int) -> list[tuple[PlannedTensor, ...]]:
    """Split tensors, in order, into shards of at most total / shards + the largest tensor, none of them empty.

    Raises:
        UsageError: there are more shards than tensors.
    """
    if shards > len(tensors):
        raise UsageError(
            f"{shards:,} shards are more than the {len(tensors):,} tensors", f"ask for at most {len(tensors):,}"
        )
    groups: list[list[PlannedTensor]] = [[]]
    total, start = max(sum(tensor.source.nbytes for tensor in tensors), 1), 0
    for index, tensor in enumerate(tensors):
        # The shard in whose equal share of the bytes the tensor begins; no shard is skipped, nor left without one.
        begins_in = start * shards // total
        latest_start = shards - (len(tensors) - index)
        if groups[-1] and max(begins_in, latest_start) >= len(groups):
            groups.append([])
        groups[-1].append(tensor)
        start += tensor.source.nbytes
    return [tuple(group) for group in groups]


def sliced(tensor: PlannedTensor, dimension: int | None, rank: int, ranks: int) -> PlannedTensor:
    """One model-parallel file's equal share of a tensor along a dimension; the whole tensor where that is None.

    Raises:
        UsageError: the dimension cannot be divided evenly.
    """
    if dimension is None or ranks == 1:
        return tensor
    size, rest = divmod(tensor.shape[dimension], ranks)
    if rest:
        raise UsageError(
            f"{tensor.name} has {tensor.shape[dimension]:,} rows or columns, which {ranks:,} files cannot share evenly"
        )
    shape = (*tensor.shape[:dimension], size, *tensor.shape[dimension + 1 :])
    if isinstance(tensor.source, Zeros):
        return PlannedTensor(tensor.name, tensor.dtype, shape, Zeros(tensor.source.nbytes // ranks))
    inner = math.prod(shape[dimension:]) * BITS[tensor.dtype] // 8
    return PlannedTensor(tensor.name, tensor.dtype, shape, _Slice(tensor.source, inner, rank, ranks))


class _Slice:
    """Every `ranks`-th run of `run_bytes` of another source, from the run `rank` on."""

    def __init__(self, source: Source, run_bytes: int, rank: int, ranks: int) -> None:
        self.nbytes = source.nbytes // ranks
        self._source = source
        self._run_bytes = run_bytes
        self._rank = rank
        self._ranks = ranks

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See values.Source. Short runs are gathered, since each piece costs a call into the file."""
        gathered = bytearray()
        for piece in self._runs(start, stop):
            if gathered and len(gathered) + len(piece) > _SHORT:
                yield bytes(gathered)
                gathered.clear()
            if len(piece) < _SHORT:
                gathered += piece
            else:
                yield from (bytes(gathered), piece) if gathered else (piece,)
                gathered.clear()
        if gathered:
            yield bytes(gathered)

    def _runs(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        while start < stop:
            index, offset = divmod(start, self._run_bytes)
            end = min(offset + stop - start, self._run_bytes)
            first = (index * self._ranks + self._rank) * self._run_bytes
            yield from self._source.read(first + offset, first + end)
            start += end - offset
