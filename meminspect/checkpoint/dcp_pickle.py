"""The `.metadata` of a torch.distributed.checkpoint folder, interpreted like a state dict's pickle and not executed.

Format: torch/distributed/checkpoint/filesystem.py pickles a `Metadata` (torch/distributed/checkpoint/metadata.py) with
Python's default protocol, 4 or 5, whose further instructions are those of Lib/pickle.py. The allowed globals are what
these dataclasses consist of and nothing else: torch itself unpickles the file when it loads, so what passes here must
be harmless there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.checkpoint.torch_globals import BITS_IN_TORCH, DType, Function, Inert, Refused, describe, make_size
from meminspect.checkpoint.torch_pickle import Machine, instructions
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_METADATA_BYTES", "Record", "load_metadata"]

MAX_METADATA_BYTES = 128 << 20  # some 200 bytes a chunk
_HINT = "do not load it: torch would execute it"
_FRAME_BYTES = 8


class Record:
    """An object of one of the allowed classes: its class's name and its state, compared by identity."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: object = None

    def get(self, field: str) -> object:
        """A field of the object; None where it has none."""
        return self.state.get(field) if type(self.state) is dict else None


class _Class(NamedTuple):
    kind: str


_MODULE: Final = "torch.distributed.checkpoint.metadata"
_OLD_MODULE: Final = "torch.distributed._shard.sharded_tensor.metadata"  # until torch 2.2
_RECORDS: Final = {
    f"{_MODULE}.{name}": _Class(name)
    for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta",
    )
}  # fmt: skip
_VALUES: Final = {
    f"{_MODULE}._MEM_FORMAT_ENCODING": "memory format",
    f"{_OLD_MODULE}.MEM_FORMAT_ENCODING": "memory format",
    "torch.serialization._get_layout": "torch.layout",
    "pathlib.PosixPath": "path",
    "pathlib._local.PosixPath": "path",  # Python 3.13
}


def _inert(what: str) -> Function:
    value = Inert(what)
    return Function(lambda _: value)


def _ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    if args:
        raise Refused("has an OrderedDict with initial values")
    return {}


_ALLOWED: Final[dict[str, object]] = {
    **_RECORDS,
    f"{_OLD_MODULE}.TensorProperties": _Class("TensorProperties"),
    "torch.distributed.checkpoint.filesystem._StorageInfo": _Class("_StorageInfo"),
    **{name: _inert(what) for name, what in _VALUES.items()},
    **{f"torch.{name}": DType(name) for name in BITS_IN_TORCH},
    "torch.Size": Function(make_size),
    "collections.OrderedDict": Function(_ordered_dict),
}


def load_metadata(data: bytes) -> Record:
    """Interpret a `.metadata`.

    Raises:
        Refused: it is damaged, or no such file.
    """
    root = _MetadataMachine(data).interpret()
    if not isinstance(root, Record) or root.kind != "Metadata":
        raise Refused(f"is no metadata of torch.distributed.checkpoint but {describe(root)}")
    return root


class _MetadataMachine(Machine):
    """Adds to the language of state dicts objects of the allowed classes, and the instructions of later protocols."""

    __slots__ = ()

    def find(self, name: str) -> object:
        found = _ALLOWED.get(name)
        if found is None:
            raise Refused(f"refers to {shown(name)}, which torch.distributed.checkpoint does not write", _HINT)
        return found

    def frame(self) -> None:
        self.take(_FRAME_BYTES)  # how much follows in one piece, for those who read from a stream

    def short_text(self) -> None:
        length = self.data[self.position]
        self.position += 1
        self.stack.append(self.decode(self.take(length)))

    def short_binary(self) -> None:
        length = self.data[self.position]
        self.position += 1
        self.take(length)
        self.stack.append(Inert("bytes"))

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("has a damaged pickle: the name of a global is no text")
        self.stack.append(self.find(f"{module}.{name}"))

    def new_object(self) -> None:
        args, kind = self.stack.pop(), self.stack[-1]
        if not isinstance(kind, _Class) or args != ():
            raise Refused(f"makes an object of a {describe(kind)}", _HINT)
        self.containers += 1
        self.stack[-1] = Record(kind.kind)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        plain = type(state) is dict or (type(state) is tuple and getattr(target, "kind", "") == "TensorProperties")
        if not isinstance(target, Record) or not plain:
            raise Refused(f"sets the state of a {describe(target)} to a {describe(state)}", _HINT)
        target.state = state

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused("has a damaged pickle: it sets items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A record is hashed by its identity; hashing a nested tuple would take time without bound.
            target[key if type(key) in (str, int, Record) else Inert(f"{describe(key)} as a key")] = value

    def empty_set(self) -> None:
        self.stack.append(Inert("set"))

    def add_items(self) -> None:
        self.pop_mark()
        if not isinstance(self.stack[-1], Inert):
            raise Refused("has a damaged pickle: it adds to what is no set")

    def frozen_set(self) -> None:
        self.pop_mark()
        self.stack.append(Inert("frozenset"))


def _table() -> tuple[Callable[[Machine], None], ...]:
    m = _MetadataMachine
    return instructions({
        b"\x95": m.frame, b"\x8c": m.short_text, b"C": m.short_binary, b"\x94": m.memoize, b"\x93": m.stack_global,
        b"\x81": m.new_object, b"b": m.build, b"Q": m.unsupported,
        b"s": m.setitem, b"u": m.setitems, b"\x8f": m.empty_set, b"\x90": m.add_items, b"\x91": m.frozen_set,
    })  # fmt: skip


_MetadataMachine.table = _table()
