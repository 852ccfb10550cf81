"""What a checkpoint is once its headers are read: files, stored tensors and the facts derived from them."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from meminspect.dtypes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Checkpoint", "CheckpointFile", "Chunk", "Storage", "StoredTensor"]


class Storage(NamedTuple):
    """A run of bytes in one file that one or several tensors look at. Equal keys share memory once loaded."""

    file: int  # index into Checkpoint.files
    key: str  # the zip record ("consolidated/data/0") or, where each tensor has its own bytes, the tensor's name
    offset: int  # bytes from the start of the file
    nbytes: int


class Chunk(NamedTuple):
    """Where a stored part of a tensor belongs."""

    whole_shape: tuple[int, ...]
    start: tuple[int, ...]  # its first element's place in the whole


class StoredTensor(NamedTuple):  # of which there may be a million: a frozen dataclass takes four times as long to make
    """One named tensor as it lies on disk; in model-parallel files the same name stands once in each file.

    A tensor that is stored in chunks stands once for each of them, under its one name.
    """

    name: str
    dtype: str  # torch's name, as "bfloat16"
    shape: tuple[int, ...]
    storage: Storage
    offset: int = 0  # bytes from the start of the storage to the first element
    strides: tuple[int, ...] | None = None  # in elements; None for row-major without gaps
    chunk: Chunk | None = None  # None: it is the whole tensor
    lazy: tuple[str, ...] = ()  # what makes values of the bytes: "conj", "neg"

    @property
    def is_first(self) -> bool:
        """Whether it is a whole tensor or the first of one's chunks."""
        return self.chunk is None or not any(self.chunk.start)

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The shape of the tensor that this is, or is a chunk of."""
        return self.chunk.whole_shape if self.chunk else self.shape

    @property
    def whole_elements(self) -> int:
        """Number of elements of that tensor."""
        return math.prod(self.whole_shape)

    @property
    def whole_nbytes(self) -> int:
        """Bytes of that tensor."""
        return bytes_of(self.dtype, self.whole_elements)

    @property
    def elements(self) -> int:
        """Number of elements: 1 for a 0-d tensor, 0 for an empty one."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without what else the storage holds."""
        return bytes_of(self.dtype, self.elements)

    @property
    def file_offset(self) -> int:
        """Bytes from the start of the file to the first element."""
        return self.storage.offset + self.offset


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A file that holds tensors."""

    name: str  # relative to the checkpoint's folder
    path: Path
    nbytes: int  # its size on disk, headers included
    unmappable: str = ""  # why torch cannot map it, to follow its name; empty where it can
    big_endian: bool = False  # the bytes of each number stand the other way round


@dataclass(frozen=True)
class Checkpoint:
    """The headers of a checkpoint; no tensor data has been read.

    `parallel_files` says that the files are slices of one model (Meta's model-parallel layout), so that a name
    stands in each of them; elsewhere a name stands once. `beside` are tensors that are not the model's and that a
    loader of whole files reads with it (an optimizer's state, …): one for each storage that no model tensor is in.
    """

    path: Path  # what the user named
    layout: str  # a key of the layout registry
    files: tuple[CheckpointFile, ...]
    tensors: tuple[StoredTensor, ...]  # in the order in which a loader meets them: by file, then by offset
    config: Mapping[str, object] | None = None  # params.json or config.json
    parallel_files: bool = False
    warnings: tuple[str, ...] = field(default=())
    entry: tuple[str, ...] = ()  # the keys that lead from what torch.load returns to the state dict
    mixed: bool = False  # the state dict has values that are no tensors
    beside: tuple[StoredTensor, ...] = ()
    untrusted: tuple[str, ...] = ()  # classes and functions that torch refuses with `weights_only=True`
    quantisation: str | None = None  # in what form its weights are quantised, where they are
    prefix: str = ""  # what every name begins with on disk, as "model."; left out in `tensors`

    @functools.cached_property
    def storages(self) -> tuple[Storage, ...]:
        """Every distinct storage, in file order; tensors that share one count once."""
        return tuple(dict.fromkeys(tensor.storage for tensor in self.tensors))

    @functools.cached_property
    def shares(self) -> bool:
        """Whether any two tensors look at one storage."""
        last = (-1, 0)
        for tensor in self.tensors:
            file, _, offset, _ = tensor.storage
            if (file, offset) <= last:  # as those do that share one, and an empty one's neighbour
                return len(self.storages) < len(self.tensors)
            last = file, offset
        return False

    @functools.cached_property
    def alike(self) -> tuple[Sequence[StoredTensor], ...]:
        """Tensors that differ in nothing but name and place within a file, as most of a model's do, together."""
        kinds: dict[object, list[StoredTensor]] = defaultdict(list)
        for tensor in self.tensors:
            _, dtype, shape, (file, _, _, nbytes), _, _, chunk, _ = tensor
            kinds[dtype, shape, file, nbytes, chunk].append(tensor)
        return tuple(kinds.values())

    @property
    def _kinds(self) -> Iterator[tuple[StoredTensor, int]]:
        """The first of those that are alike, and their number."""
        return ((tensors[0], len(tensors)) for tensors in self.alike)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data, shared storages once: C in the theory."""
        return sum(self.shard_nbytes)

    @functools.cached_property
    def parameters(self) -> int:
        """Elements of all tensors, tied ones once."""
        if not self.shares:
            return sum(count * first.elements for first, count in self._kinds)
        seen: dict[tuple[Storage, int], int] = {}
        for tensor in self.tensors:
            view = (tensor.storage, tensor.offset)
            seen[view] = max(seen.get(view, 0), tensor.elements)
        return sum(seen.values())

    @functools.cached_property
    def largest_tensor(self) -> StoredTensor | None:
        """The tensor with the most bytes, the first of equals; None without tensors."""
        return max((first for first, _ in self._kinds), key=lambda first: first.whole_nbytes, default=None)

    @functools.cached_property
    def shard_nbytes(self) -> tuple[int, ...]:
        """Bytes of tensor data in each file."""
        sums = [0] * len(self.files)
        if self.shares:
            for storage in self.storages:
                sums[storage.file] += storage.nbytes
        else:
            for first, count in self._kinds:
                sums[first.storage.file] += count * first.storage.nbytes
        return tuple(sums)

    @functools.cached_property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """Number of tensors and their bytes (views of shared storages each) for every dtype."""
        sums: dict[str, tuple[int, int]] = {}
        for first, count in self._kinds:
            tensors, nbytes = sums.get(first.dtype, (0, 0))
            sums[first.dtype] = (tensors + count * first.is_first, nbytes + count * first.nbytes)
        return sums

    @functools.cached_property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that are the same elements of the same storage."""
        if not self.shares:
            return ()
        shared = Counter(tensor.storage for tensor in self.tensors)
        groups: dict[object, list[str]] = defaultdict(list)
        for tensor in self.tensors:
            if shared[tensor.storage] > 1 and tensor.elements and tensor.chunk is None:
                groups[tensor.storage, tensor.offset, tensor.shape, tensor.strides].append(tensor.name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)
