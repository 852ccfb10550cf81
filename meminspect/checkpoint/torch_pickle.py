"""An interpreter for the pickle of a state dict that imports nothing, calls nothing and builds next to nothing.

The instructions are those that torch/_weights_only_unpickler.py accepts (what `pickle` protocol 2 needs for containers,
numbers and text), so that what is read here is what `torch.load(weights_only=True)` loads, `Pickled.untrusted` aside.
`pickle.Unpickler` with a restricted `find_class` is no alternative: it allocates a memo as large as an index says and
a buffer as long as a length says. Here the memo is a dict, text is a slice of what has been read, and the rest is
bounded by `MAX_OBJECTS` and `MAX_STACK`.
"""

# ruff: noqa: D102 (a method is the instruction that it is named after)
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from meminspect.checkpoint.torch_globals import (
    PLAIN_SAVE,
    Function,
    Inert,
    Refused,
    StorageRef,
    StorageType,
    Truncated,
    Unknown,
    describe,
    stand_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Instruction = Callable[[Any], None]  # of a machine

__all__ = ["MAX_PICKLE_BYTES", "Machine", "Pickled", "instructions", "load_pickle"]

MAX_PICKLE_BYTES = 32 << 20  # 200,000 tensors at some 150 bytes each
MAX_OBJECTS = 4_000_000  # containers and memo entries: up to twenty a tensor, 100 bytes each
MAX_STACK = 1_000_000
MAX_MARKS = 256
MAX_GLOBAL_BYTES = 256
CHECK_EVERY = 1 << 16
_INT64_BYTES = 8
_STOP = 0x2E

_int32 = struct.Struct("<i").unpack_from
_uint32 = struct.Struct("<I").unpack_from
_uint16 = struct.Struct("<H").unpack_from
_double = struct.Struct(">d").unpack_from


class Pickled(NamedTuple):
    """What a pickle says."""

    root: object  # dicts, lists, tuples, numbers, text, `PickledTensor`s, and stand-ins for everything else
    storages: dict[str, StorageRef]  # by key, in the order in which a loader meets them
    untrusted: tuple[str, ...]  # the classes and functions that torch refuses with `weights_only=True`
    nbytes: int  # its length in what was given


def load_pickle(data: bytes, *, legacy: bool = False) -> Pickled:
    """Interpret the pickle that bytes begin with.

    Args:
        data: at least all of it.
        legacy: whether storages are referred to as torch did before 1.6.

    Raises:
        Truncated: the data ends before the pickle does.
        Refused: the pickle is damaged or wants to run something.
    """
    machine = Machine(data, 6 if legacy else 5)
    return Pickled(machine.interpret(), machine.storages, tuple(machine.untrusted), machine.position)


class Machine:
    """The stack, the marks and the memo; one method an instruction."""

    table: ClassVar[tuple[Instruction, ...]]

    __slots__ = ("below", "containers", "data", "id_length", "marks", "memo", "position", "protocol", "stack",
                 "storages", "untrusted")  # fmt: skip

    def __init__(self, data: bytes, id_length: int = 0) -> None:
        self.data = data
        self.id_length = id_length
        self.storages: dict[str, StorageRef] = {}
        self.untrusted: dict[str, None] = {}
        self.position = 0
        self.protocol = 0
        self.stack: list[object] = []
        self.marks: list[list[object]] = []  # the stacks below each mark
        self.below = 0  # how many values those hold
        self.memo: dict[int, object] = {}
        self.containers = 0

    def interpret(self) -> object:
        """What the pickle holds.

        Raises:
            Truncated: the data ends before the pickle does.
            Refused: the pickle is damaged or wants to run something.
        """
        try:
            return self.run()
        except (IndexError, struct.error) as error:
            raise Truncated("has a damaged pickle: it ends early or uses what it has not built") from error
        except KeyError as error:
            raise Refused("has a damaged pickle: it recalls what it has not stored") from error

    def run(self) -> object:
        data, table = self.data, self.table
        while True:
            for _ in range(CHECK_EVERY):
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    return self.stack.pop()
                table[opcode](self)
            if self.containers + len(self.memo) > MAX_OBJECTS or self.below + len(self.stack) > MAX_STACK:
                raise Refused("has a pickle that grows beyond any state dict")

    def pop_mark(self) -> list[object]:
        values = self.stack
        self.stack = self.marks.pop()
        self.below -= len(self.stack)
        return values

    def unsupported(self) -> None:
        opcode = self.data[self.position - 1]
        raise Refused(
            f"has a pickle of protocol {self.protocol} with instruction 0x{opcode:02x}, which no state dict needs",
            "save it again with torch.save's default pickle protocol",
        )

    def proto(self) -> None:
        self.protocol = self.data[self.position]
        self.position += 1

    # Constants

    def none(self) -> None:
        self.stack.append(None)

    def true(self) -> None:
        self.stack.append(True)

    def false(self) -> None:
        self.stack.append(False)

    def int32(self) -> None:
        self.stack.append(_int32(self.data, self.position)[0])
        self.position += 4

    def uint8(self) -> None:
        self.stack.append(self.data[self.position])
        self.position += 1

    def uint16(self) -> None:
        self.stack.append(_uint16(self.data, self.position)[0])
        self.position += 2

    def long1(self) -> None:
        length = self.data[self.position]
        self.position += 1
        digits = self.take(length)
        # No size has more than 64 bits; a number that has is somebody's own, and not read.
        self.stack.append(int.from_bytes(digits, "little", signed=True) if length <= _INT64_BYTES else Inert("int"))

    def double(self) -> None:
        self.stack.append(_double(self.data, self.position)[0])
        self.position += 8

    def text(self) -> None:
        (length,) = _uint32(self.data, self.position)
        self.position += 4
        self.stack.append(self.decode(self.take(length)))

    def short_bytes(self) -> None:
        """What Python 2 wrote for text; torch reads it as UTF-8."""
        length = self.data[self.position]
        self.position += 1
        self.stack.append(self.decode(self.take(length)))

    def decode(self, text: bytes) -> str:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("has a name that is not Unicode text") from error

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise IndexError
        taken = self.data[self.position : end]
        self.position = end
        return taken

    # Containers

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise Refused("has a pickle that is nested too deeply")
        self.marks.append(self.stack)
        self.below += len(self.stack)
        self.stack = []

    def empty_tuple(self) -> None:
        self.stack.append(())

    def tuple_(self) -> None:
        self.containers += 1
        values = tuple(self.pop_mark())
        self.stack.append(values)

    def tuple1(self) -> None:
        self.containers += 1
        self.stack[-1] = (self.stack[-1],)

    def tuple2(self) -> None:
        self.containers += 1
        second = self.stack.pop()
        self.stack[-1] = (self.stack[-1], second)

    def tuple3(self) -> None:
        self.containers += 1
        third, second = self.stack.pop(), self.stack.pop()
        self.stack[-1] = (self.stack[-1], second, third)

    def empty_dict(self) -> None:
        self.containers += 1
        self.stack.append({})

    def empty_list(self) -> None:
        self.containers += 1
        self.stack.append([])

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def appends(self) -> None:
        self.extend(self.pop_mark())

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, (Inert, Unknown)):
            return
        if type(target) is not list:
            raise Refused("has a damaged pickle: it appends to what is no list")
        self.containers += len(values)
        target.extend(values)

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def setitems(self) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, (Inert, Unknown)):
            return
        if type(target) is not dict or len(items) % 2:
            raise Refused("has a damaged pickle: it sets items of what is no dictionary")
        keys = items[::2]
        for index, key in enumerate(keys):
            # Hashing a nested tuple takes time without bound; such a key names no tensor anyway.
            if type(key) not in (str, int):
                keys[index] = Inert(f"{describe(key)} as a key")
        target.update(zip(keys, items[1::2], strict=True))

    # Memo

    def put8(self) -> None:
        self.memo[self.data[self.position]] = self.stack[-1]
        self.position += 1

    def put32(self) -> None:
        self.memo[_uint32(self.data, self.position)[0]] = self.stack[-1]
        self.position += 4

    def get8(self) -> None:
        self.stack.append(self.memo[self.data[self.position]])
        self.position += 1

    def get32(self) -> None:
        self.stack.append(self.memo[_uint32(self.data, self.position)[0]])
        self.position += 4

    # What would run code in a real unpickler

    def global_(self) -> None:
        name = f"{self.line()}.{self.line()}"
        self.stack.append(self.find(name))

    def find(self, name: str) -> object:
        """The stand-in for a global."""
        found = stand_in(name)
        if isinstance(found, Unknown):
            self.untrusted[name] = None
        return found

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_GLOBAL_BYTES)
        if end < 0:
            raise Refused("has a damaged pickle: the name of a global does not end")
        text = self.decode(self.data[self.position : end])
        self.position = end + 1
        return text

    def reduce(self) -> None:
        args, function = self.stack.pop(), self.stack[-1]
        if isinstance(function, Unknown):
            return
        if not isinstance(function, Function) or type(args) is not tuple:
            raise Refused("has a damaged pickle: it calls what is no function")
        self.containers += 1
        self.stack[-1] = function.call(args)

    def new_object(self) -> None:
        self.stack.pop()
        if not isinstance(self.stack[-1], Unknown):
            raise Refused(f"makes a new {describe(self.stack[-1])}, which torch never writes", PLAIN_SAVE)

    def build(self) -> None:
        self.stack.pop()
        if not isinstance(self.stack[-1], (dict, Inert, Unknown)):
            raise Refused(f"sets the state of a {describe(self.stack[-1])}", PLAIN_SAVE)

    def persistent_id(self) -> None:
        """torch/serialization.py: ("storage", storage class, key, location, number of elements[, None])."""
        pid = self.stack.pop()
        if type(pid) is tuple and pid[:1] == ("module",):
            self.stack.append(pid[1])  # before torch 1.6: a class with its source code
            return
        if type(pid) is not tuple or len(pid) != self.id_length or pid[0] != "storage":
            raise Refused("has a damaged pickle: it refers to something outside that is no storage")
        _, kind, key, _, elements, *view = pid
        known = isinstance(kind, StorageType) and type(key) is str and type(elements) is int
        if not known or elements < 0 or view not in ([], [None]):
            raise Refused("has a damaged pickle: it refers to an impossible storage")
        storage = StorageRef(key, kind.dtype, elements)
        if self.storages.setdefault(key, storage).nbytes != storage.nbytes:
            raise Refused("has a damaged pickle: it refers to one storage as two sizes")
        self.stack.append(storage)


def instructions(more: Mapping[bytes, Instruction] | None = None) -> tuple[Instruction, ...]:
    """Instructions by their byte, as `pickle` names them (Lib/pickle.py); all others are refused.

    Args:
        more: what a machine of a larger language adds or does otherwise.
    """
    m = Machine
    known: dict[bytes, Instruction] = {
        b"\x80": m.proto, b"N": m.none, b"\x88": m.true, b"\x89": m.false, b"J": m.int32, b"K": m.uint8,
        b"M": m.uint16, b"\x8a": m.long1, b"G": m.double, b"X": m.text, b"(": m.mark, b")": m.empty_tuple,
        b"t": m.tuple_, b"\x85": m.tuple1, b"\x86": m.tuple2, b"\x87": m.tuple3, b"}": m.empty_dict,
        b"]": m.empty_list, b"a": m.append, b"e": m.appends, b"s": m.setitem, b"u": m.setitems, b"q": m.put8,
        b"r": m.put32, b"h": m.get8, b"j": m.get32, b"c": m.global_, b"R": m.reduce, b"b": m.build,
        b"Q": m.persistent_id, b"\x81": m.new_object, b"U": m.short_bytes, **(more or {}),
    }  # fmt: skip
    return tuple(known.get(bytes([code]), m.unsupported) for code in range(256))


Machine.table = instructions()
