"""The header of one safetensors file.

Format: https://github.com/huggingface/safetensors#format; the rules and limits are those of the reference
implementation (`safetensors/src/tensor.rs`, `read_metadata` and `Metadata::validate`): a little-endian 64-bit length,
that many bytes of JSON, then the data, which the tensors cover from first to last byte without holes or overlaps.
"""

from __future__ import annotations

import re
import struct
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, NamedTuple

from meminspect.checkpoint.foreign import recognise
from meminspect.checkpoint.model import CheckpointFile, Storage, StoredTensor
from meminspect.checkpoint.reading import HeaderFile, Part, open_header, sizes
from meminspect.checkpoint.strict_json import parse_object
from meminspect.dtypes import BITS, SAFETENSORS_CODES
from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["looks_like_safetensors", "read_safetensors"]

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # MAX_HEADER_SIZE of the reference implementation
MAX_DIMS = 64  # torch's own limit (c10 "maximum supported dimension")
MAX_ELEMENTS = 1 << 63
_AGAIN = "fetch the file again"

# How serde writes a header: no spaces, no escapes but in odd names, the fields in this order. Any other byte by itself.
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_METADATA = re.compile(rb'\{(?:"__metadata__":(\{[^{}]*\}),)?')
_PLAIN_ENTRY = re.compile(
    rb'"((?!__metadata__")[^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+","shape":\[[0-9,]*)\],'
    rb'"data_offsets":\[(%b),(%b)\]\}(?:,|\} *\Z)|(?s:.)' % ((_NUMBER,) * 2)
)
_BETWEEN = b'},"'  # the end of an entry and the begin of the next; within a name it cuts what is then not plain
_PIECE_BYTES = 1 << 16  # of entries that are read together: no other thread runs meanwhile
_PLAIN_KIND = re.compile(rb'(\w+)","shape":\[((?:%b(?:,%b)*)?)' % ((_NUMBER,) * 2))


class _Place(NamedTuple):
    """Where the data of tensors lies that a header describes."""

    file: int  # index into Checkpoint.files
    start: int  # bytes from the start of the file to the data, from which a header counts


class _Kind(NamedTuple):
    """What tensors of one dtype and shape have in common."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def looks_like_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: a plausible length and an opening brace.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with open_header(path) as file:
        return _header_length(file) is not None


def read_safetensors(path: Path, name: str, index: int = 0) -> Part:
    """Read the header of one file.

    Args:
        path: the file.
        name: its name relative to the checkpoint's folder.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file is not a safetensors file, is damaged or is incomplete.
    """
    with open_header(path) as file:
        length = _header_length(file)
        if length is None:
            raise _not_safetensors(file)
        text = file.read(LENGTH_BYTES, length)
        place = _Place(index, LENGTH_BYTES + length)
        try:
            tensors = _plain_tensors(text, place)
            if tensors is None:
                # A tensor takes 50 bytes and three brackets: a text of mere brackets would parse to 20 times its size.
                if text.count(b"[") + text.count(b"{") > 1000 + length // 8:
                    raise file.refuse("has a header of brackets, not of tensors", _AGAIN)
                tensors = _tensors(parse_object(text), place)
                _lay_out(tensors, place.start)
        except ValueError as error:
            raise file.refuse(f"has a damaged header: {error}", _AGAIN) from error
        _check_size(file, sum(tensors[-1].storage[2:]) if tensors else place.start)
    return Part(CheckpointFile(name, path, file.nbytes), tuple(tensors))


def _header_length(file: HeaderFile) -> int | None:
    if file.nbytes <= LENGTH_BYTES:
        return None
    head = file.read(0, LENGTH_BYTES + 1)
    (length,) = struct.unpack_from("<Q", head)
    # The brace, which the format demands, keeps another format's first number from passing for a length.
    if head[-1:] != b"{" or length > min(MAX_HEADER_BYTES, file.nbytes - LENGTH_BYTES):
        return None
    return int(length)


def _not_safetensors(file: HeaderFile) -> Exception:
    foreign = recognise(file)
    if foreign is not None:
        return file.refuse(f"is {foreign.what}", foreign.hint)
    if file.nbytes <= LENGTH_BYTES:
        return file.refuse(f"is only {file.nbytes} bytes long", _AGAIN)
    (length,) = struct.unpack("<Q", file.read(0, LENGTH_BYTES))
    if length > MAX_HEADER_BYTES:
        return file.refuse(
            f"is not a safetensors file: a header of {length:,} bytes is over the limit of {MAX_HEADER_BYTES:,}",
            _AGAIN,
        )
    if length > file.nbytes - LENGTH_BYTES:
        found, promised = sizes(file.nbytes, LENGTH_BYTES + length)
        return file.refuse(f"is {found} but its header alone takes {promised}: the download is incomplete", _AGAIN)
    return file.refuse("is not a safetensors file: its header is not a JSON object", _AGAIN)


def _plain_tensors(text: bytes, place: _Place) -> list[StoredTensor] | None:
    """The tensors of a header that is spelt as the reference implementation spells it, in a third of the time.

    None for any other one, and for one with a fault: `_tensors` says which.
    """
    try:
        return _read_plainly(text, place)
    except ValueError:
        return None


def _read_plainly(text: bytes, place: _Place) -> list[StoredTensor] | None:
    metadata = _METADATA.match(text)
    if metadata is None or (metadata[1] and not _is_text_map(metadata[1])) or text.rstrip(b" ")[-2:] != b"}}":
        return None
    tensors: list[StoredTensor] = []
    kinds: dict[bytes, _Kind] = {}  # a model has few shapes, and many tensors of each
    new = tuple.__new__  # takes a third of the time that the two classes' own takes
    end, end_text = 0, b"0"
    for entries in _plain_entries(text, metadata.end()):
        encoded, described, begins, ends = zip(*entries, strict=True)
        for one in set(described).difference(kinds):
            kinds[one] = _kind(one)
        dtypes, shapes, sizes_bytes = zip(*map(kinds.__getitem__, described), strict=True)
        offsets = list(accumulate(sizes_bytes, initial=end))
        if begins != (end_text, *ends[:-1]) or offsets[1:] != list(map(int, ends)):
            return None
        end, end_text = offsets[-1], ends[-1]
        names = list(map(bytes.decode, encoded))
        in_file = map(place.start.__add__, offsets)
        storages = map(new, repeat(Storage), zip(repeat(place.file), names, in_file, sizes_bytes))
        fields = zip(names, dtypes, shapes, storages, repeat(0), repeat(None), repeat(None), repeat(()))
        tensors.extend(map(new, repeat(StoredTensor), fields))
    return tensors if len({tensor[0] for tensor in tensors}) == len(tensors) else None


def _plain_entries(text: bytes, position: int) -> Iterator[list[tuple[bytes, ...]]]:
    """The entries from a position on, piece by piece; what is no plain one is four empty texts."""
    while position < len(text):
        between = text.find(_BETWEEN, position + _PIECE_BYTES)
        end = len(text) if between < 0 else between + len(_BETWEEN) - 1
        yield _PLAIN_ENTRY.findall(text, position, end)
        position = end


def _kind(described: bytes) -> _Kind:
    match = _PLAIN_KIND.fullmatch(described)
    dtype = SAFETENSORS_CODES.get(match[1].decode()) if match else None
    shape = tuple(map(int, match[2].split(b","))) if match and match[2] else ()
    if dtype is None or len(shape) > MAX_DIMS:
        raise ValueError("is not in order")
    return _Kind(dtype, shape, _nbytes(dtype, shape))


def _is_text_map(text: bytes) -> bool:
    return all(isinstance(value, str) for value in parse_object(text).values())


def _tensors(header: dict[str, object], place: _Place) -> list[StoredTensor]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not a map of strings")
    return [_tensor(name, info, place) for name, info in header.items()]


def _tensor(name: str, info: object, place: _Place) -> StoredTensor:
    if not isinstance(info, dict):
        raise ValueError(f"the tensor '{shown(name)}' has no description")
    code = info.get("dtype")
    dtype = SAFETENSORS_CODES.get(code) if isinstance(code, str) else None
    if dtype is None:
        what = f"the unknown dtype '{shown(code)}'" if isinstance(code, str) else "no dtype"
        raise ValueError(f"the tensor '{shown(name)}' has {what}")
    shape, offsets = _naturals(info.get("shape")), _naturals(info.get("data_offsets"))
    if shape is None or len(shape) > MAX_DIMS:
        raise ValueError(f"the tensor '{shown(name)}' has no valid shape")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the tensor '{shown(name)}' has no valid data_offsets")
    try:
        nbytes = _nbytes(dtype, shape)
    except ValueError as error:
        raise ValueError(f"the tensor '{shown(name)}' {error}") from error
    begin, end = offsets
    if nbytes != end - begin:
        raise ValueError(
            f"the tensor '{shown(name)}' takes {nbytes:,} bytes by its shape, {end - begin:,} by its data_offsets"
        )
    return StoredTensor(name, dtype, shape, Storage(place.file, name, place.start + begin, nbytes))


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    # bool is an int to Python, not to JSON.
    return tuple(value) if all(type(number) is int and number >= 0 for number in value) else None


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor.

    Raises:
        ValueError: it has none, or more than anybody; in words to follow its name.
    """
    elements = 1
    for dim in shape:
        elements *= dim
        if (
            max(dim, elements) >= MAX_ELEMENTS
        ):  # on the way, as the reference implementation does: (2**63, 4, 0) overflows
            raise ValueError("has more than 2**63 elements")
    if elements * BITS[dtype] % 8:
        raise ValueError("does not end on a whole byte")
    return elements * BITS[dtype] // 8


def _lay_out(tensors: list[StoredTensor], start: int) -> None:
    """Put tensors in the order of their bytes, which almost every header has already."""
    try:
        _check_cover(tensors, start)
    except ValueError:
        tensors.sort(key=lambda tensor: (tensor.storage.offset, tensor.storage.nbytes, tensor.name))
        _check_cover(tensors, start)


def _check_cover(tensors: list[StoredTensor], start: int) -> None:
    covered = start
    for tensor in tensors:
        _, _, offset, nbytes = tensor.storage
        if offset != covered:
            fault = "overlaps the one before it" if offset < covered else "leaves a hole before it"
            raise ValueError(f"the tensor '{shown(tensor.name)}' {fault}")
        covered += nbytes


def _check_size(file: HeaderFile, promised: int) -> None:
    if promised > file.nbytes:
        found, wanted = sizes(file.nbytes, promised)
        raise file.refuse(f"is {found} but its header promises {wanted}: the download is incomplete", _AGAIN)
    if promised < file.nbytes:
        raise file.refuse(f"has {format_bytes(file.nbytes - promised)} behind its last tensor", _AGAIN)
