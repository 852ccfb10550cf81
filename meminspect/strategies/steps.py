"""The runs of steps that ledgers are put together from."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meminspect.checkpoint.model import Storage, StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["Sources", "assign", "build", "copy", "into_final_form", "join", "read", "touch"]


class Sources:
    """The memory that reading files brings in, and when it goes away again.

    A storage read into the heap goes with its last tensor. A mapping's pages come as they are touched and all go
    together, with the last tensor of their file.
    """

    def __init__(self, pool: Pool, item: str) -> None:
        self.pool = pool
        self.item = item
        self._users: Counter[object] = Counter()
        self._names: dict[Storage, str] = {}
        self._resident: dict[object, dict[Storage, Step]] = defaultdict(dict)

    def add(self, tensor: StoredTensor, item: str = "") -> Iterator[Step]:
        """Read or map a tensor; a storage that an earlier one brought in is there already."""
        new = not self._users[tensor.storage]
        self._names.setdefault(tensor.storage, tensor.name)
        self._users[tensor.storage] += 1
        self._users[tensor.storage.file] += 1
        if new:
            step = self._step("read", Operation.MATERIALISE, tensor, item or self.item)
            yield step
            if self.pool is Pool.HEAP:
                self._resident[tensor.storage][tensor.storage] = step

    def name_of(self, tensor: StoredTensor) -> str:
        """The first tensor of a storage, whose name the storage goes by."""
        return self._names[tensor.storage]

    def use(self, phase: str, tensor: StoredTensor, item: str = "") -> Iterator[Step]:
        """Look at a tensor's bytes, which makes a mapping's pages resident."""
        resident = self._resident[tensor.storage.file]
        if self.pool is Pool.FILE and tensor.storage not in resident:
            resident[tensor.storage] = self._step(phase, Operation.TOUCH, tensor, item or self.item)
            yield resident[tensor.storage]

    def drop(self, phase: str, tensor: StoredTensor) -> Iterator[Step]:
        """Let go of a tensor."""
        self._users[tensor.storage] -= 1
        self._users[tensor.storage.file] -= 1
        owner = tensor.storage if self.pool is Pool.HEAP else tensor.storage.file
        if not self._users[owner]:
            for step in self._resident.pop(owner, {}).values():
                yield step._replace(phase=phase, operation=Operation.RELEASE)

    def _step(self, phase: str, operation: Operation, tensor: StoredTensor, item: str) -> Step:
        return Step(phase, operation, self.pool, item, tensor.name, tensor.storage.nbytes)


def build(task: LoadTask) -> Iterator[Step]:
    """Random weights: the model's floor, and what its initial dtype takes beyond that."""
    for parameter in task.architecture.parameters:
        if parameter.tied_to is not None or not parameter.elements:
            continue
        nbytes = bytes_of(task.initial_dtype(parameter), parameter.elements)
        floor = min(nbytes, bytes_of(task.target_dtype(parameter), parameter.elements))
        yield Step("build", Operation.MATERIALISE, Pool.HEAP, Item.FLOOR, parameter.name, floor)
        if nbytes > floor:
            yield Step("build", Operation.MATERIALISE, Pool.HEAP, Item.UPCAST, parameter.name, nbytes - floor)


def read(task: LoadTask, sources: Sources, files: Iterable[int] | None = None) -> Iterator[Step]:
    """Read or map files, all unless some are named; what lies beside the state dict goes as soon as a file is read."""
    for file in range(len(task.checkpoint.files)) if files is None else files:
        beside = [(tensor, Item.BESIDE) for tensor in task.beside_by_file[file]]
        everything = [(tensor, sources.item) for tensor in task.tensors_by_file[file]] + beside
        for tensor, item in sorted(everything, key=lambda stored: stored[0].storage.offset):
            yield from sources.add(tensor, item)
        for tensor, _ in beside:
            yield from sources.drop("read", tensor)


def join(task: LoadTask, sources: Sources, item: str) -> Iterator[Step]:
    """Join model-parallel slices, each dropped as soon as its tensor is whole."""
    for name, pieces in task.pieces.items():
        if task.split_dims[name] is None:
            for piece in pieces[1:]:
                yield from sources.drop("merge", piece)
            continue
        for piece in pieces:
            yield from sources.use("merge", piece)
        yield Step("merge", Operation.MATERIALISE, Pool.HEAP, item, name, sum(piece.nbytes for piece in pieces))
        for piece in pieces:
            yield from sources.drop("merge", piece)


def copy(task: LoadTask, sources: Sources, tensors: Iterable[StoredTensor]) -> Iterator[Step]:
    """Copy whole tensors into the model, in the model's order."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for parameter in task.loading_order:
        tensor = by_name.get(parameter.name)
        if tensor is not None:
            yield from sources.use("copy", tensor)
            nbytes = bytes_of(tensor.dtype, parameter.elements)
            yield Step("copy", Operation.COPY, Pool.NONE, "", parameter.tied_to or parameter.name, nbytes)


def assign(task: LoadTask) -> Iterator[Step]:
    """Hand the state dict's memory over to the model, in the model's order."""
    for parameter in task.loading_order:
        if parameter.name in task.pieces:
            nbytes = bytes_of(task.target_dtype(parameter), parameter.elements)
            yield Step("assign", Operation.ASSIGN, Pool.NONE, "", parameter.name, nbytes)


def into_final_form(task: LoadTask, sources: Sources) -> Iterator[Step]:
    """Join slices, then cast, tensor by tensor; each source goes as soon as its successor is made.

    Tied tensors come apart in a cast: every name gets a copy of its own.
    """
    parallel = task.checkpoint.parallel_files
    if parallel:
        yield from join(task, sources, Item.STAGING if task.casts else Item.FLOOR)
    for name, pieces in task.pieces.items():
        dtype = task.cast_dtype(pieces[0].dtype)
        if dtype == pieces[0].dtype:
            continue
        joined = parallel and task.split_dims[name] is not None
        if not joined:
            yield from sources.use("cast", pieces[0])
        elements = sum(piece.elements for piece in pieces) if joined else pieces[0].elements
        owner = sources.name_of(pieces[0]) if not joined else name
        yield Step("cast", Operation.MATERIALISE, Pool.HEAP, Item.FLOOR, owner, bytes_of(dtype, elements))
        if joined:
            stored = sum(piece.nbytes for piece in pieces)
            yield Step("cast", Operation.RELEASE, Pool.HEAP, Item.STAGING, name, stored)
        else:
            yield from sources.drop("cast", pieces[0])


def touch(task: LoadTask, sources: Sources) -> Iterator[Step]:
    """Make every page of the model resident that is still only mapped."""
    for parameter in task.loading_order:
        pieces = task.pieces.get(parameter.name, ())
        if not pieces or task.cast_dtype(pieces[0].dtype) != pieces[0].dtype:
            continue
        if not task.checkpoint.parallel_files or task.split_dims[parameter.name] is None:
            yield from sources.use("touch", pieces[0], Item.FLOOR)
