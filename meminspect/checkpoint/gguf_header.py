"""The header of a GGUF file: its values, and where each tensor lies.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Numbers are little-endian;
version 3 may be big-endian, which is refused. Arrays (a tokenizer's are megabytes) are walked over and not kept.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.checkpoint.model import CheckpointFile, Storage, StoredTensor
from meminspect.checkpoint.reading import open_header, sizes
from meminspect.dtypes import GGML_BLOCKS, GGML_TYPES, bytes_of
from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.reading import HeaderFile

__all__ = ["MAGIC", "Gguf", "Value", "read_gguf"]

Value = str | int | float | bool

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 256,000 tokens takes 10 MB
MAX_STRINGS = 4_000_000  # in arrays; each takes a step to walk over
MAX_TENSORS = 1_000_000
MAX_VALUES = 100_000
MAX_NAME_BYTES = 65_535  # what the format allows a key; a tensor's name has at most 64
MAX_DIMS = 4
MAX_NESTING = 4
_WINDOW_BYTES = 1 << 20
_AGAIN = "fetch the file again"

_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


class Gguf(NamedTuple):
    """A file's header."""

    file: CheckpointFile
    tensors: tuple[StoredTensor, ...]  # by offset
    values: dict[str, Value]  # without arrays and long texts


class _Info(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the start of the data


def read_gguf(path: Path, name: str, index: int = 0) -> Gguf:
    """Read a header.

    Args:
        path: the file.
        name: its name relative to the checkpoint's folder.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file is no GGUF of a known version, or is damaged, incomplete or hostile.
    """
    with open_header(path) as file:
        cursor = _Cursor(file)
        tensors, values = _counts(cursor)
        found = _values(cursor, values)
        infos = [_info(cursor) for _ in range(tensors)]
        alignment = found.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise file.refuse(f"has an alignment of {shown(str(alignment), 40)}", _AGAIN)
        data = -(-cursor.position // alignment) * alignment
        stored = _place(file, sorted(infos, key=lambda info: info.offset), data, alignment, index)
        return Gguf(CheckpointFile(name, path, file.nbytes), stored, found)


class _Cursor:
    """Reads a header from its start to its end, a window at a time."""

    def __init__(self, file: HeaderFile) -> None:
        self.file = file
        self.position = 0
        self._window = b""
        self._start = 0
        self._end = min(file.nbytes, MAX_HEADER_BYTES)
        self.strings = 0

    def take(self, count: int) -> bytes:
        """The next bytes; the caller has bounded their number."""
        begin = self.position - self._start
        if begin < 0 or begin + count > len(self._window):
            self._check(count)
            self._start, begin = self.position, 0
            self._window = self.file.read(self.position, max(count, min(_WINDOW_BYTES, self._end - self.position)))
        self.position += count
        return self._window[begin : begin + count]

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        self._check(count)
        self.position += count

    def _check(self, count: int) -> None:
        if count <= self._end - self.position:
            return
        if self._end < self.file.nbytes:
            raise self.file.refuse(f"has a header beyond the {format_bytes(MAX_HEADER_BYTES)} that are read", _AGAIN)
        raise self.file.refuse("ends within its header: the download is incomplete", "finish the download")

    def number(self, form: str) -> Value:
        found: Value = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return found

    def natural(self, form: str = "<Q") -> int:
        return int(self.number(form))

    def text(self) -> str:
        """A name."""
        length = self.natural()
        if length > MAX_NAME_BYTES:
            raise self.file.refuse(f"has a name of {length:,} bytes", _AGAIN)
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.file.refuse("has a name that is not Unicode text", _AGAIN) from error


def _counts(cursor: _Cursor) -> tuple[int, int]:
    file = cursor.file
    if not file.nbytes:
        raise file.refuse("is an empty file", _AGAIN)
    if file.nbytes < 24 or cursor.take(4) != MAGIC:
        raise file.refuse("is not a GGUF file", "name the weights themselves")
    version = cursor.natural("<I")
    if version not in (2, 3):
        big = version in (2 << 24, 3 << 24)
        raise file.refuse(
            "is a big-endian GGUF file" if big else f"is a GGUF file of version {version}; 2 and 3 are read",
            "convert it again" if big else "convert it with a current llama.cpp",
        )
    tensors, values = cursor.natural(), cursor.natural()
    if tensors > MAX_TENSORS or values > MAX_VALUES:
        raise file.refuse(f"claims {tensors:,} tensors and {values:,} values, which cannot be right", _AGAIN)
    return tensors, values


def _values(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key, kind = cursor.text(), cursor.natural("<I")
        value = _value(cursor, kind)
        if key in found:
            raise cursor.file.refuse(f"has the value '{shown(key)}' twice", _AGAIN)
        if value is not None:
            found[key] = value
    return found


def _value(cursor: _Cursor, kind: int, nesting: int = 0) -> Value | None:
    """A value; None for one that is not kept."""
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return _string(cursor)
    if kind != _ARRAY or nesting > MAX_NESTING:
        raise cursor.file.refuse(f"has a value of the unknown type {kind}", _AGAIN)
    kind, length = cursor.natural("<I"), cursor.natural()
    if kind in _SCALARS:
        cursor.skip(length * struct.calcsize(_SCALARS[kind]))
        return None
    cursor.strings += length
    if cursor.strings > MAX_STRINGS:
        raise cursor.file.refuse(f"has arrays of {cursor.strings:,} entries", _AGAIN)
    for _ in range(length):
        if kind == _STRING:
            cursor.skip(cursor.natural())
        else:
            _value(cursor, kind, nesting + 1)
    return None


def _string(cursor: _Cursor) -> str | None:
    length = cursor.natural()
    if length > MAX_NAME_BYTES:
        cursor.skip(length)
        return None
    return cursor.take(length).decode("utf-8", "replace")


def _info(cursor: _Cursor) -> _Info:
    name, dims = cursor.text(), cursor.natural("<I")
    if dims > MAX_DIMS:
        raise cursor.file.refuse(f"has the tensor '{shown(name)}' of {dims:,} dimensions", _AGAIN)
    # The first dimension is the one whose elements are next to each other: torch's last.
    shape = tuple(cursor.natural() for _ in range(dims))[::-1]
    kind, offset = cursor.natural("<I"), cursor.natural()
    dtype = GGML_TYPES.get(kind)
    if dtype is None:
        raise cursor.file.refuse(f"has the tensor '{shown(name)}' of the unknown type {kind}", "update meminspect")
    if max(*shape, math.prod(shape), offset) >= 1 << 63 if shape else offset >= 1 << 63:
        raise cursor.file.refuse(f"has the tensor '{shown(name)}' of more than 2**63 elements", _AGAIN)
    block = GGML_BLOCKS[dtype][0] if dtype in GGML_BLOCKS else 1
    if shape and shape[-1] % block:
        raise cursor.file.refuse(
            f"has the tensor '{shown(name)}' with rows of {shape[-1]:,} in blocks of {block} ({dtype})", _AGAIN
        )
    return _Info(name, dtype, shape, offset)


def _place(file: HeaderFile, infos: list[_Info], data: int, alignment: int, index: int) -> tuple[StoredTensor, ...]:
    tensors: list[StoredTensor] = []
    names: set[str] = set()
    covered = 0
    for info in infos:
        nbytes = bytes_of(info.dtype, math.prod(info.shape))
        if info.name in names:
            raise file.refuse(f"has the tensor '{shown(info.name)}' twice", _AGAIN)
        if info.offset % alignment or info.offset < covered:
            raise file.refuse(f"has the tensor '{shown(info.name)}' at an impossible offset", _AGAIN)
        names.add(info.name)
        covered = info.offset + nbytes
        tensors.append(
            StoredTensor(info.name, info.dtype, info.shape, Storage(index, info.name, data + info.offset, nbytes))
        )
    if infos and data + covered > file.nbytes:  # without tensors a file may end before they would begin
        found, promised = sizes(file.nbytes, data + covered)
        raise file.refuse(f"has {found} of the {promised} that its header promises", "finish the download")
    return tuple(tensors)
