"""Which memory belongs to which tensor: the one thing that all hooks share."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
import weakref
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from meminspect.capture.records import Operation, Pool
from meminspect.worker.recorder import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

    from meminspect.checkpoint.model import Checkpoint, StoredTensor
    from meminspect.worker.hooks.derived import Attribution
    from meminspect.worker.hooks.modules import ConstructionPlan
    from meminspect.worker.recorder import Recorder

__all__ = ["Form", "Tracker", "describe", "pool_of", "replaced"]


@functools.lru_cache(maxsize=4096)  # a model has few shapes, and many tensors of each
def describe(dtype: str, shape: tuple[int, ...]) -> str:
    """A tensor's type and shape as events carry it: ``float16 [4096, 4096]``."""
    return f"{dtype.removeprefix('torch.')} {list(shape)}"


def pool_of(device: torch.device) -> Pool:
    """Where a tensor's memory is that is made on a device."""
    return Pool.HEAP if device.type == "cpu" else Pool.VRAM


class Form(NamedTuple):
    """What a tensor is to be."""

    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Form:
        """What a tensor is."""
        return cls(tensor.dtype, tensor.device, tuple(tensor.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.dtype.itemsize * math.prod(self.shape)


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put `make(original)` in place of an attribute while the context lasts; absent attributes are left absent."""
    missing = object()
    original = owner.__dict__.get(name, missing)  # not getattr: an inherited one must become inherited again
    current = getattr(owner, name, missing)
    if current is missing:
        yield
        return
    setattr(owner, name, make(current))
    try:
        yield
    finally:
        if original is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


class _Live(weakref.ref["torch.UntypedStorage"]):
    """What is in memory at an address, until it is gone."""

    __slots__ = ("address", "file", "id", "name", "nbytes", "pool")

    id: int
    pool: Pool
    name: str
    nbytes: int
    address: int
    file: int  # that it is mapped from; -1: none


class Tracker:
    """Names memory by its address and reports when it comes and goes.

    Attributes:
        model: the one that has been built on meta, if any.
        attribution: what counts the bytes that get a name, if anybody asks.
        touched: addresses of the mapped storages that the load itself has made resident.
        construction: which factory call makes which of the model's parameters (`hooks.modules`).
    """

    def __init__(self, recorder: Recorder, checkpoint: Checkpoint) -> None:
        self.recorder = recorder
        self.model: nn.Module | None = None
        self.attribution: Attribution | None = None
        self.touched: set[int] = set()
        self.construction: ConstructionPlan = {}
        self.slice: tuple[Any, StoredTensor] | None = None  # the part of a file that is read next, and what it holds
        self.filling = False  # a copy under way makes its target resident, and is reported as that
        self._on_meta: dict[int, str] = {}  # the names of its tensors that have no memory yet, by `id`
        self._once_on_meta: set[str] = set()
        self._names: dict[int, str] = {}  # address of a storage → tensor
        self._views: dict[int, str] = {}  # address of a tensor in a storage of several → tensor
        self._filling: dict[int, int] = {}  # address of a storage that is filled part by part → event id
        self._owner: dict[int, int] = {}  # the same address → event id of what has it now
        self._live: dict[int, _Live] = {}  # by event id: a dead ref calls nobody
        self._mapped: Counter[int] = Counter()  # how many tensors of each file are mapped
        self._by_inode: dict[tuple[int, int], int] = {}
        self._by_key: dict[tuple[int, str], StoredTensor] = {}
        self._by_offset: dict[tuple[int, int], StoredTensor] = {}
        self._by_file: dict[int, list[StoredTensor]] = defaultdict(list)
        for index, file in enumerate(checkpoint.files):
            status = file.path.stat()
            self._by_inode[status.st_dev, status.st_ino] = index
        for tensor in (*checkpoint.tensors, *checkpoint.beside):
            storage = tensor.storage
            self._by_key.setdefault((storage.file, storage.key), tensor)
            if storage.nbytes:  # an empty one begins where the next one does
                self._by_offset.setdefault((storage.file, storage.offset), tensor)
            self._by_file[storage.file].append(tensor)

    def forget_model(self) -> None:
        """Let go of the model: torch.overrides and torch._dynamo keep the functions that they find, ours with them."""
        self.model = None

    def take_over(self, tensor: torch.Tensor) -> str:
        """The name of a tensor of the model that has no memory yet and is about to get it; empty for any other."""
        if tensor.is_meta and id(tensor) not in self._on_meta and self.model is not None:
            # The model's first tensors, and what has been added to it since.
            for name, found in (*self.model.named_parameters(), *self.model.named_buffers()):
                if found.is_meta and name not in self._once_on_meta:
                    self._on_meta[id(found)] = name
                    self._once_on_meta.add(name)
        return self._on_meta.pop(id(tensor), "")

    def file_index(self, file: Any) -> int:
        """Which of the checkpoint's files this is; -1 for another one."""
        try:
            status = os.fstat(file.fileno()) if hasattr(file, "fileno") else os.stat(file)  # noqa: PTH116 - any path
        except (OSError, TypeError, ValueError):
            return -1
        return self._by_inode.get((status.st_dev, status.st_ino), -1)

    def in_file(self, file: int) -> list[StoredTensor]:
        """The tensors of a file, in the order of their offsets."""
        return sorted(self._by_file[file], key=lambda tensor: tensor.file_offset)

    def at_key(self, file: int, key: str) -> StoredTensor | None:
        """The first tensor that lies in a storage of a file."""
        return self._by_key.get((file, key))

    def at_offset(self, file: int, offset: int) -> StoredTensor | None:
        """The first tensor whose storage begins at an offset of a file."""
        return self._by_offset.get((file, offset))

    def begin(self, pool: Pool, tensor: StoredTensor) -> int:
        """A stored tensor is about to be materialised; returns the event's id."""
        storage = tensor.storage
        return self.recorder.begin(
            Operation.MATERIALISE, pool, tensor.name, storage.nbytes,
            detail=describe(tensor.dtype, tensor.shape), file=storage.file, offset=storage.offset + tensor.offset,
        )  # fmt: skip

    def end(self, id_: int, pool: Pool, name: str, storage: torch.UntypedStorage) -> None:
        """Materialising is done: from now on the storage has a name, and its end will be reported."""
        self.recorder.end(id_, Operation.MATERIALISE, pool, name, storage.nbytes())
        self.follow(id_, pool, name, storage)

    def made(
        self,
        phase: str,
        name: str,
        form: Form,
        make: Callable[[], torch.Tensor],
        *,
        filled: bool = True,
        falls: bool = True,
    ) -> torch.Tensor:
        """Report a tensor that is made of one that we know, under its name.

        Args:
            phase: in which this happens.
            name: the tensor that it is made of.
            form: what is made.
            make: makes it.
            filled: False for memory that is yet to be written; writing it is no event of its own.
            falls: whether memory goes when what it is made of is dropped; a file's goes with its last tensor only.
        """
        pool, nbytes = pool_of(form.device), form.nbytes
        self.recorder.phase(phase)
        detail = describe(str(form.dtype), form.shape)
        id_ = self.recorder.begin(Operation.MATERIALISE, pool, name, nbytes, detail=detail)
        result = make()
        self.recorder.end(id_, Operation.MATERIALISE, pool, name, nbytes)
        self.follow(id_, pool, name, result.untyped_storage(), named=filled)
        if filled and falls and nbytes >= SMALL_BYTES:
            self.recorder.before_fall()
        return result

    def has_made(self, name: str, storage: torch.UntypedStorage, detail: str) -> None:
        """Report a storage that has been made of a tensor that we know, and that nobody could tell of before."""
        pool, nbytes = pool_of(storage.device), storage.nbytes()
        id_ = self.recorder.begin(Operation.MATERIALISE, pool, name, nbytes, detail=detail)
        self.end(id_, pool, name, storage)

    def sent(self, storage: torch.UntypedStorage, send: Callable[[], torch.UntypedStorage]) -> torch.UntypedStorage:
        """Report that a storage which we know is copied to a device; one that we do not know is just copied."""
        name, nbytes = self._names.get(storage.data_ptr(), ""), storage.nbytes()
        if not name:
            return send()
        id_ = self.recorder.begin(Operation.MATERIALISE, Pool.VRAM, name, nbytes)
        result = send()
        self.end(id_, Pool.VRAM, name, result)
        return result

    def mapped(self, tensor: StoredTensor, storage: torch.UntypedStorage) -> None:
        """A stored tensor has been mapped, which takes no time and no memory yet."""
        id_ = self.recorder.done(
            Operation.MATERIALISE, Pool.FILE, tensor.name, tensor.storage.nbytes,
            detail=describe(tensor.dtype, tensor.shape), file=tensor.storage.file, offset=tensor.file_offset,
        )  # fmt: skip
        self.follow(id_, Pool.FILE, tensor.name, storage)
        if id_ in self._live:
            self._live[id_].file = tensor.storage.file
            self._mapped[tensor.storage.file] += 1

    def name_view(self, tensor: torch.Tensor, name: str) -> None:
        """A tensor that shares its storage with others has a name."""
        self._views[tensor.data_ptr()] = name

    def mapped_whole(self, file: int, storage: torch.UntypedStorage) -> None:
        """A whole file has been mapped: while that is held its pages stay, whatever becomes of the tensors in it."""
        if self.attribution is not None:  # recipes of ours hold none
            id_ = self.recorder.done(Operation.MATERIALISE, Pool.FILE, "", 0, file=file)
            live = self._live[id_] = _Live(storage, self._released)
            live.id, live.pool, live.name, live.nbytes, live.address, live.file = id_, Pool.FILE, "", 0, 0, file
            self._mapped[file] += 1

    def name(self, storage: torch.UntypedStorage, name: str) -> None:
        """From now on the storage has a name; its end is not reported."""
        self._names[storage.data_ptr()] = name

    def follow(self, id_: int, pool: Pool, name: str, storage: torch.UntypedStorage, *, named: bool = True) -> None:
        """From now on the storage has a name, and its end will be reported as that of an event's memory."""
        started_ns = time.monotonic_ns()
        if self.attribution is not None:
            self.attribution.named(storage.nbytes())
        address = storage.data_ptr()
        if address and not named:
            self._filling[address] = id_
        elif address:
            self._names[address] = name
            self._owner[address] = id_
        if self.recorder.enabled:
            live = self._live[id_] = _Live(storage, self._released)
            live.id, live.pool, live.name, live.nbytes, live.address = id_, pool, name, storage.nbytes(), address
            live.file = -1
            self.recorder.charge_since(started_ns)

    def _released(self, gone: _Live) -> None:
        started_ns = time.monotonic_ns()
        del self._live[gone.id]
        if self._owner.get(gone.address) == gone.id:  # whatever comes to this address next is not this tensor
            del self._owner[gone.address], self._names[gone.address]
        if self._filling.get(gone.address) == gone.id:
            del self._filling[gone.address]
        self.recorder.charge_since(started_ns)
        if gone.file >= 0:
            self._mapped[gone.file] -= 1
            if not self._mapped[gone.file]:
                self.recorder.before_fall()  # the pages of a file go with its last tensor
        self.recorder.release(gone.id, gone.pool, gone.name, gone.nbytes)

    def is_filling(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is part of one that is filled part by part."""
        return bool(self._filling) and tensor.untyped_storage().data_ptr() in self._filling

    def is_mapped(self, address: int) -> bool:
        """Whether a tensor's memory that begins at an address is a file's."""
        live = self._live.get(self._owner.get(address, 0))
        return live is not None and live.pool is Pool.FILE

    def name_of(self, tensor: torch.Tensor) -> str:
        """The name of the tensor that this memory belongs to; empty when it is none we know."""
        try:
            if self._views and (name := self._views.get(tensor.data_ptr())):
                return name
            return self._names.get(tensor.untyped_storage().data_ptr(), "")
        except (RuntimeError, NotImplementedError):  # a subclass without storage
            return ""
