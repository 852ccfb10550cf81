"""The memory that reading files brings in, and when it goes away again."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Operation, Pool
from meminspect.devices import kind_of
from meminspect.strategies.recipes import always_maps, is_safetensors
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meminspect.checkpoint.model import Storage, StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["Sources", "sources_for"]

# Looked up once: in Python 3.11 finding a member of an enumeration takes as long as the rest of a step.
_MATERIALISE, _TOUCH = Operation.MATERIALISE, Operation.TOUCH
_FILE, _HEAP, _NONE, _PINNED, _VRAM = Pool.FILE, Pool.HEAP, Pool.NONE, Pool.PINNED, Pool.VRAM

# From then on safetensors copies each tensor that is for CUDA from its mapping into page-locked memory first
# (bindings/python/src/lib.rs, get_tensor_pinned_cuda).
_PINS_SINCE: Final = (0, 8)


class Sources:
    """What is read from files.

    A storage read into memory of its own goes with its last tensor. A mapping's pages come as they are touched and
    all go together, with the last tensor of their file.

    Args:
        pool: where the tensors are once they are read.
        item: what they are on a bill.
        via: the host's pool through which tensors of a device come: one by one through the heap or page-locked memory,
            which is filled from a mapping, or straight from that mapping.
    """

    def __init__(self, pool: Pool, item: str, via: Pool = _NONE) -> None:
        self.pool = pool
        self.item = item
        self._via = via
        self._users: dict[object, int] = defaultdict(int)
        self._names: dict[Storage, str] = {}
        self._resident: dict[object, dict[Storage, Step]] = defaultdict(dict)

    @property
    def made_pool(self) -> Pool:
        """Where tensors that are made of these come to be."""
        return _VRAM if self.pool is _VRAM else _HEAP

    def read(self, tensors: Iterable[StoredTensor], phase: str = "read", item: str = "") -> Iterator[Step]:
        """Read or map tensors in file order.

        Args:
            tensors: which.
            phase: when.
            item: what they are on a bill, where it is something else than usual.
        """
        for _, of_file in itertools.groupby(tensors, key=lambda tensor: tensor.storage.file):
            touched: list[Step] = []
            for tensor in of_file:
                storage = tensor.storage
                if not self._users[storage]:
                    self._names.setdefault(storage, tensor.name)
                    step = self._step(self._sending(phase), _MATERIALISE, tensor, item or self.item)
                    if self._via is _NONE:
                        yield step
                    else:
                        yield from self._passing(phase, step, touched)
                    if self.pool is not _FILE:
                        self._resident[storage][storage] = step
                self._users[storage] += 1
                self._users[storage.file] += 1
            for step in touched:
                yield step.given_back(self._sending(phase))

    def _sending(self, phase: str) -> str:
        """The phase in which tensors go to the device: torch.load sends each as it reads it."""
        return phase if self._via in (_NONE, _HEAP) else "move"

    def _passing(self, phase: str, step: Step, touched: list[Step]) -> Iterator[Step]:
        """A storage comes to the device; the pages of a mapping that it passes through are added to `touched`."""
        passing = step._replace(phase=phase, pool=self._via, item=Item.STAGING)
        yield passing
        if self._via in (_FILE, _PINNED):
            touched.append(passing._replace(operation=_TOUCH, pool=_FILE))
            yield touched[-1]
        yield step
        if self._via in (_HEAP, _PINNED):
            yield passing.given_back(step.phase)

    def name_of(self, tensor: StoredTensor) -> str:
        """The first tensor of a storage, whose name the storage goes by."""
        return self._names[tensor.storage]

    def use(self, phase: str, tensor: StoredTensor, item: str = "") -> Iterator[Step]:
        """Look at a tensor's bytes, which makes a mapping's pages resident."""
        resident = self._resident[tensor.storage.file]
        if self.pool is _FILE and tensor.storage not in resident:
            resident[tensor.storage] = self._step(phase, _TOUCH, tensor, item or self.item)
            yield resident[tensor.storage]

    def drop(self, phase: str, tensor: StoredTensor) -> Iterator[Step]:
        """Let go of a tensor."""
        self._users[tensor.storage] -= 1
        self._users[tensor.storage.file] -= 1
        owner = tensor.storage.file if self.pool is _FILE else tensor.storage
        if not self._users[owner]:
            for step in self._resident.pop(owner, {}).values():
                yield step.given_back(phase)

    def _step(self, phase: str, operation: Operation, tensor: StoredTensor, item: str) -> Step:
        return Step(phase, operation, self.pool, item, tensor.name, tensor.storage.nbytes)


def sources_for(task: LoadTask, item: str, *, to_device: bool = False) -> Sources:
    """What `recipes.read_one` brings in: pickles are read into the heap, safetensors are mapped.

    Args:
        task: what to load.
        item: what it is on a bill.
        to_device: whether it is read to the task's device rather than to the host.
    """
    host = _FILE if always_maps(task) else _HEAP
    if to_device and task.pool is _VRAM:
        pins = kind_of(task.options.device) == "cuda" and is_safetensors(task)
        pins = pins and task.options.interpreter.lacks("safetensors", _PINS_SINCE) is None
        return Sources(_VRAM, item, via=_PINNED if pins else host)
    return Sources(host, item)
