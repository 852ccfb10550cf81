"""What a `.metadata` of torch.distributed.checkpoint says lies where, every number checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from meminspect.checkpoint.dcp_pickle import MAX_METADATA_BYTES, Record, load_metadata
from meminspect.checkpoint.reading import open_header
from meminspect.checkpoint.torch_globals import MAX_DIMS, MAX_ELEMENTS, DType, Refused
from meminspect.dtypes import bytes_of
from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    _Naturals = tuple[int, ...]
    _Key = tuple[str, _Naturals | None]  # a name, and the start of a chunk; None for what is no tensor

__all__ = ["Item", "read_items"]


@dataclass(frozen=True, slots=True)
class Item:
    """A chunk of a tensor, or an object that is none, and the bytes that it was saved as."""

    name: str  # flat, as "model.layers.0.weight"
    path: tuple[str, ...]  # where it stood in the nested state dict
    file: str
    offset: int  # bytes
    length: int
    dtype: str | None = None  # None: no tensor
    whole: tuple[int, ...] = ()  # the shape of the tensor that this is a chunk of
    start: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; 0 for what is no tensor."""
        return bytes_of(self.dtype, math.prod(self.sizes)) if self.dtype else 0

    @property
    def has_plain_path(self) -> bool:
        """Whether the flat name is the path joined by dots."""
        return ".".join(self.path) == self.name


def read_items(path: Path) -> list[Item]:
    """Read a `.metadata`.

    Raises:
        CheckpointError: it is damaged, hostile or too large.
    """
    with open_header(path) as file:
        if file.nbytes > MAX_METADATA_BYTES:
            raise file.refuse(f"is {format_bytes(file.nbytes)}; {format_bytes(MAX_METADATA_BYTES)} are read")
        try:
            return list(_items(load_metadata(file.read(0, file.nbytes))))
        except Refused as error:
            raise file.refuse(str(error), error.hint) from error


def _items(metadata: Record) -> Iterator[Item]:
    stored = _mapping(metadata.get("state_dict_metadata"), "entries")
    paths = metadata.get("planner_data")
    places = _places(_mapping(metadata.get("storage_data"), "places"))
    for name, entry in stored.items():
        if type(name) is not str or not isinstance(entry, Record):
            raise Refused("has an entry that is no object of its own")
        path = _path(name, paths)
        if entry.kind == "TensorStorageMetadata":
            yield from _chunks(name, path, entry, places)
        else:
            yield Item(name, path, *_place(name, None, places))


def _mapping(value: object, what: str) -> Mapping[object, object]:
    if type(value) is not dict:
        raise Refused(f"is damaged: it has no {what}")
    return value


def _path(name: str, paths: object) -> tuple[str, ...]:
    path = paths.get(name) if type(paths) is dict else None
    return (
        tuple(map(str, path)) if type(path) is tuple and path and all(type(p) in (str, int) for p in path) else (name,)
    )


def _places(storage: Mapping[object, object]) -> dict[_Key, Record]:
    places: dict[_Key, Record] = {}
    for index, place in storage.items():
        if not isinstance(index, Record) or not isinstance(place, Record):
            raise Refused("is damaged: it has a place of nothing")
        name, offset = index.get("fqn"), index.get("offset")
        if type(name) is not str or not (offset is None or _are_naturals(offset)):
            raise Refused("is damaged: it has a place without a name")
        places[name, offset] = place
    return places


def _are_naturals(value: object) -> TypeGuard[_Naturals]:
    if type(value) is not tuple or len(value) > MAX_DIMS:
        return False
    return all(type(number) is int and 0 <= number < MAX_ELEMENTS for number in value)


def _chunks(name: str, path: tuple[str, ...], entry: Record, places: Mapping[_Key, Record]) -> Iterator[Item]:
    properties, whole, chunks = entry.get("properties"), entry.get("size"), entry.get("chunks")
    state = properties.state if isinstance(properties, Record) else None
    dtype = state[0] if type(state) is tuple and state else None
    if not isinstance(dtype, DType) or not _are_naturals(whole) or type(chunks) is not list:
        raise Refused(f"says of the tensor '{shown(name)}' neither type nor shape")
    for chunk in chunks:
        start, sizes = (chunk.get("offsets"), chunk.get("sizes")) if isinstance(chunk, Record) else (None, None)
        if not _are_naturals(start) or not _are_naturals(sizes) or not _lies_within(start, sizes, whole):
            raise Refused(f"has a chunk that lies outside the tensor '{shown(name)}'")
        yield Item(name, path, *_place(name, start, places), dtype.name, whole, start, sizes)


def _lies_within(start: _Naturals, sizes: _Naturals, whole: _Naturals) -> bool:
    if not len(start) == len(sizes) == len(whole) or math.prod(whole) >= MAX_ELEMENTS:
        return False
    return all(at + size <= length for at, size, length in zip(start, sizes, whole, strict=True))


def _place(name: str, start: _Naturals | None, places: Mapping[_Key, Record]) -> tuple[str, int, int]:
    place = places.get((name, start))
    if place is None:
        raise Refused(f"does not say where '{shown(name)}' is", "finish the save or copy")
    file, offset, length = (place.get(field) for field in ("relative_path", "offset", "length"))
    if type(file) is not str or type(offset) is not int or type(length) is not int or not _is_plain(file):
        raise Refused(f"places '{shown(name)}' outside its folder", "do not use a checkpoint that points elsewhere")
    if place.get("transform_descriptors"):
        raise Refused(f"holds '{shown(name)}' compressed or encrypted", "save it without storage extensions")
    return file, offset, length


def _is_plain(name: str) -> bool:
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\")
