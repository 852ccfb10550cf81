"""The `data.pkl` of torch.save, written without torch: a state dict or one bare tensor, in pickle protocol 2.

Sources: CPython's pickletools.py for the opcodes; torch/_utils.py for `_rebuild_tensor_v2` and `_v3` and their
arguments; torch/_tensor.py, `_reduce_ex_internal`, for which of the two is used; torch/serialization.py, `_save`, for
the persistent ids.
The opcodes come out as CPython's own pickler emits them for the same objects, memo numbers included.
"""

from __future__ import annotations

import math
import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect.dtypes import TORCH_STORAGES, bytes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TensorRecord", "pickle_state_dict", "pickle_tensor"]

_STORAGES: Final = {dtype: name for name, dtype in TORCH_STORAGES.items()}
_BATCH: Final = 1000  # items that one SETITEMS takes (CPython, Modules/_pickle.c, BATCHSIZE)
_SHORT_TUPLES: Final = {1: pickle.TUPLE1, 2: pickle.TUPLE2, 3: pickle.TUPLE3}


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A contiguous tensor that owns the whole of the storage `key`, or shares it with one that does."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    key: str


def pickle_state_dict(tensors: Sequence[TensorRecord], *, ordered: bool) -> bytes:
    """Pickle a mapping from names to tensors: an OrderedDict, as of a module, or a plain dict."""
    emitter = _Emitter()
    if ordered:
        emitter.ordered_dict()
    else:
        emitter.put(pickle.EMPTY_DICT)
    emitter.items(tensors)
    return emitter.finish()


def pickle_tensor(tensor: TensorRecord) -> bytes:
    """Pickle a tensor on its own."""
    emitter = _Emitter()
    emitter.tensor(tensor)
    return emitter.finish()


class _Emitter:
    def __init__(self) -> None:
        self._out = bytearray(pickle.PROTO + b"\x02")
        self._memo: dict[str, int] = {}  # what is emitted again as a reference: text, and globals as "module name"
        self._count = 0  # every object that can be referred to takes a number, whether or not it ever is

    def finish(self) -> bytes:
        return bytes(self._out + pickle.STOP)

    def put(self, opcodes: bytes) -> None:
        """Emit what makes an object, then give the object its memo number."""
        self._out += opcodes
        short = self._count < 256
        self._out += pickle.BINPUT + bytes((self._count,)) if short else pickle.LONG_BINPUT + _u32(self._count)
        self._count += 1

    def _known(self, what: str, opcodes: bytes) -> None:
        number = self._memo.get(what)
        if number is None:
            self._memo[what] = self._count
            self.put(opcodes)
        else:
            self._out += pickle.BINGET + bytes((number,)) if number < 256 else pickle.LONG_BINGET + _u32(number)

    def _text(self, text: str) -> None:
        encoded = text.encode()
        self._known(f"text {text}", pickle.BINUNICODE + _u32(len(encoded)) + encoded)

    def _global(self, module: str, name: str) -> None:
        self._known(f"global {module} {name}", pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def _integer(self, number: int) -> None:
        if number < 1 << 8:
            self._out += pickle.BININT1 + struct.pack("<B", number)
        elif number < 1 << 16:
            self._out += pickle.BININT2 + struct.pack("<H", number)
        elif number < 1 << 31:
            self._out += pickle.BININT + _u32(number)
        else:
            encoded = pickle.encode_long(number)
            self._out += pickle.LONG1 + bytes((len(encoded),)) + encoded

    def _integers(self, numbers: Sequence[int]) -> None:
        if not numbers:
            self._out += pickle.EMPTY_TUPLE
            return
        closing = _SHORT_TUPLES.get(len(numbers))
        if closing is None:
            self._out += pickle.MARK
        for number in numbers:
            self._integer(number)
        self.put(closing or pickle.TUPLE)

    def ordered_dict(self) -> None:
        self._global("collections", "OrderedDict")
        self.put(pickle.EMPTY_TUPLE + pickle.REDUCE)

    def _storage(self, tensor: TensorRecord) -> None:
        """Emit `('storage', type, key, 'cpu', numel)` as a persistent id; untyped storages count bytes."""
        elements, typed = math.prod(tensor.shape), _STORAGES.get(tensor.dtype)
        self._out += pickle.MARK
        self._text("storage")
        if typed is None:
            self._global("torch.storage", "UntypedStorage")
        else:
            self._global("torch", typed)
        # The prefix keeps a key apart from a tensor that has the same name.
        self._known(f"key {tensor.key}", pickle.BINUNICODE + _u32(len(tensor.key)) + tensor.key.encode())
        self._text("cpu")
        self._integer(bytes_of(tensor.dtype, elements) if typed is None else elements)
        self.put(pickle.TUPLE)
        self._out += pickle.BINPERSID

    def tensor(self, tensor: TensorRecord) -> None:
        typed = tensor.dtype in _STORAGES
        self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self._out += pickle.MARK
        self._storage(tensor)
        self._integer(0)  # offset in the storage
        self._integers(tensor.shape)
        self._integers(_strides(tensor.shape))
        self._out += pickle.NEWFALSE  # requires_grad
        self.ordered_dict()  # backward hooks
        if not typed:
            self._global("torch", tensor.dtype)
        self.put(pickle.TUPLE)
        self.put(pickle.REDUCE)

    def items(self, tensors: Sequence[TensorRecord]) -> None:
        if len(tensors) == 1:
            self._item(tensors[0])
            self._out += pickle.SETITEM
            return
        for start in range(0, len(tensors), _BATCH):
            self._out += pickle.MARK
            for tensor in tensors[start : start + _BATCH]:
                self._item(tensor)
            self._out += pickle.SETITEMS

    def _item(self, tensor: TensorRecord) -> None:
        self._text(tensor.name)
        self.tensor(tensor)


def _u32(number: int) -> bytes:
    return struct.pack("<I", number)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor in elements; torch counts a dimension of none as one."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
