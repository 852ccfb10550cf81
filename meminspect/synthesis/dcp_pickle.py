"""The `.metadata` of a torch.distributed.checkpoint folder, written without torch, in pickle protocol 2.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py (`_StorageInfo`) for the classes and their states;
CPython's pickletools.py for the opcodes. torch writes protocol 4 and reads any.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["ChunkRecord", "pickle_metadata"]

_METADATA: Final = "torch.distributed.checkpoint.metadata"
_FILESYSTEM: Final = "torch.distributed.checkpoint.filesystem"


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A chunk of a tensor, and the file that it fills."""

    name: str
    dtype: str
    whole_shape: tuple[int, ...]
    start: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    nbytes: int  # of the file


def pickle_metadata(chunks: Sequence[ChunkRecord]) -> bytes:
    """Pickle the `Metadata` of a flat state dict; chunks of one tensor stand next to each other or not."""
    by_name: dict[str, list[ChunkRecord]] = {}
    for chunk in chunks:
        by_name.setdefault(chunk.name, []).append(chunk)
    tensors = {_text(name): _tensor(parts) for name, parts in by_name.items()}
    places = {
        _index(chunk, at): _object(
            _FILESYSTEM, "_StorageInfo",
            {"relative_path": _text(chunk.file), "offset": _integer(0), "length": _integer(chunk.nbytes)},
        )
        for parts in by_name.values()
        for at, chunk in enumerate(parts)
    }  # fmt: skip
    paths = {_text(name): _text(name) + pickle.TUPLE1 for name in by_name}
    state = {
        "state_dict_metadata": _dict(tensors), "planner_data": _dict(paths), "storage_data": _dict(places),
        "storage_meta": pickle.NONE, "version": _text("1.0.0"),
    }  # fmt: skip
    return pickle.PROTO + b"\x02" + _object(_METADATA, "Metadata", state) + pickle.STOP


def _tensor(parts: Sequence[ChunkRecord]) -> bytes:
    layout = _global("torch.serialization", "_get_layout") + _text("torch.strided") + pickle.TUPLE1 + pickle.REDUCE
    memory_format = _global(_METADATA, "_MEM_FORMAT_ENCODING") + _integer(0) + pickle.TUPLE1 + pickle.REDUCE
    # TensorProperties.__getstate__: dtype, layout, requires_grad, memory format, pin_memory
    state = (_global("torch", parts[0].dtype), layout, pickle.NEWFALSE, memory_format, pickle.NEWFALSE)
    properties = _new(_METADATA, "TensorProperties") + pickle.MARK + b"".join(state) + pickle.TUPLE + pickle.BUILD
    chunks = [
        _object(_METADATA, "ChunkStorageMetadata", {"offsets": _size(part.start), "sizes": _size(part.sizes)})
        for part in parts
    ]
    fields = {
        "properties": properties,
        "size": _size(parts[0].whole_shape),
        "chunks": pickle.EMPTY_LIST + pickle.MARK + b"".join(chunks) + pickle.APPENDS,
    }
    return _object(_METADATA, "TensorStorageMetadata", fields)


def _index(chunk: ChunkRecord, at: int) -> bytes:
    fields = {"fqn": _text(chunk.name), "index": _integer(at), "offset": _size(chunk.start)}
    return _object(_METADATA, "MetadataIndex", fields)


def _object(module: str, name: str, state: Mapping[str, bytes]) -> bytes:
    return _new(module, name) + _dict({_text(field): value for field, value in state.items()}) + pickle.BUILD


def _new(module: str, name: str) -> bytes:
    return _global(module, name) + pickle.EMPTY_TUPLE + pickle.NEWOBJ


def _dict(items: Mapping[bytes, bytes]) -> bytes:
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(key + value for key, value in items.items()) + pickle.SETITEMS


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _size(numbers: Iterable[int]) -> bytes:
    shape = pickle.MARK + b"".join(map(_integer, numbers)) + pickle.TUPLE
    return _global("torch", "Size") + shape + pickle.TUPLE1 + pickle.REDUCE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    encoded = pickle.encode_long(number)
    return pickle.LONG1 + bytes((len(encoded),)) + encoded
