"""A state dict that `torch.save` wrote (since torch 1.6): a zip archive of a pickle and one record for each storage.

Format: torch/serialization.py, `_save` and `_load`; torch/include/caffe2/serialize/inline_container.h for the archive
(`NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`, nothing compressed, data aligned to 64 bytes by padding in the
local header's extra field).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.foreign import recognise
from meminspect.checkpoint.model import CheckpointFile, Storage, StoredTensor
from meminspect.checkpoint.reading import HeaderFile, Part, open_header
from meminspect.checkpoint.torch_globals import PickledTensor, Refused, describe
from meminspect.checkpoint.torch_pickle import MAX_PICKLE_BYTES, load_pickle
from meminspect.checkpoint.zip_directory import STORED, Record, read_directory, read_record, record_offsets
from meminspect.text import listed, shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_torch_archive", "read_torch_tensor"]

_ZIP_MAGIC = b"PK\3\4"
_PICKLE = "/data.pkl"
_MAX_BYTEORDER_BYTES = 16
_AGAIN = "fetch the file again"


class _Archive:
    """An open archive: its records, and where the data of each begins."""

    def __init__(self, file: HeaderFile, index: int) -> None:
        self.file = file
        self.index = index
        directory = read_directory(file)
        self.records = directory.records
        self.folder = _folder(file, self.records)
        self.offsets = record_offsets(file, directory)

    def content(self, name: str, max_bytes: int) -> bytes | None:
        """What a small record holds; None where there is no such record."""
        record = self.records.get(f"{self.folder}/{name}")
        return None if record is None else read_record(self.file, record, self.offsets[record.name], max_bytes)

    def tensor(self, name: str, tensor: PickledTensor) -> StoredTensor:
        """The tensor with the place of its bytes.

        Raises:
            CheckpointError: its record is missing, compressed or of another size.
        """
        record = self.records.get(f"{self.folder}/data/{tensor.storage.key}")
        if record is None:
            raise self.file.refuse(f"lacks the data of the tensor '{shown(name)}'", _AGAIN)
        if record.method != STORED:
            raise self.file.refuse(
                f"is a compressed archive: '{shown(record.name)}' cannot be read in place", "save it with torch.save"
            )
        if record.nbytes != tensor.storage.nbytes:
            raise self.file.refuse(
                f"holds {record.nbytes:,} bytes for the tensor '{shown(name)}' and says {tensor.storage.nbytes:,}",
                _AGAIN,
            )
        storage = Storage(self.index, record.name, self.offsets[record.name], record.nbytes)
        return StoredTensor(name, tensor.dtype, tensor.shape, storage, tensor.offset, tensor.strides)


def read_torch_archive(path: Path, name: str, index: int = 0) -> Part:
    """Read the headers of one file; nothing in it is executed.

    Args:
        path: the file.
        name: its name relative to the checkpoint's folder.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file is not a plain state dict of `torch.save`, is damaged or is incomplete.
    """
    with open_header(path) as file:
        tensors, warnings = _read_state_dict(_open_archive(file, index))
        return Part(CheckpointFile(name, path, file.nbytes), tensors, warnings)


def read_torch_tensor(file: HeaderFile, name: str, index: int) -> StoredTensor:
    """Read the header of a file that is one tensor by itself.

    Args:
        file: the file.
        name: the tensor's name, which such a file does not hold.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file holds something else, is damaged or is incomplete.
    """
    archive = _open_archive(file, index)
    root = _root(archive)
    if not isinstance(root, PickledTensor):
        raise file.refuse(f"is no single tensor but a {describe(root)}", "save the tensor itself with torch.save")
    return archive.tensor(name, root)


def _open_archive(file: HeaderFile, index: int) -> _Archive:
    _check_magic(file)
    archive = _Archive(file, index)
    order = archive.content("byteorder", _MAX_BYTEORDER_BYTES)
    if order not in (None, b"little"):
        fault = "is a big-endian archive" if order == b"big" else "does not say its byte order"
        raise file.refuse(fault, "save it again on a little-endian machine")
    return archive


def _root(archive: _Archive) -> object:
    try:
        return load_pickle(archive.content("data.pkl", MAX_PICKLE_BYTES) or b"")
    except Refused as error:
        raise archive.file.refuse(str(error), error.hint) from error


def _check_magic(file: HeaderFile) -> None:
    if file.nbytes >= len(_ZIP_MAGIC) and file.read(0, len(_ZIP_MAGIC)) == _ZIP_MAGIC:
        return
    foreign = recognise(file)
    what, hint = foreign if foreign is not None else ("not a file that torch.save wrote", _AGAIN)
    raise file.refuse(f"is {what}", hint)


def _folder(file: HeaderFile, records: dict[str, Record]) -> str:
    pickles = [name for name in records if name.endswith(_PICKLE) and name.count("/") == 1]
    if len(pickles) > 1:
        raise file.refuse(f"holds several pickles: {listed(pickles)}", "save one state dict a file")
    if not pickles:
        what = "a zip archive of numpy arrays" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise file.refuse(f"is {what} that torch.save did not write", "name a checkpoint")
    folder = pickles[0][: -len(_PICKLE)]
    if f"{folder}/constants.pkl" in records:
        raise file.refuse("is a TorchScript archive: code, not a state dict", "save the state_dict() of torch.jit.load")
    return folder


def _read_state_dict(archive: _Archive) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    root = _root(archive)
    if type(root) is not dict:
        raise archive.file.refuse(f"is no state dict but a single value: {describe(root)}", "save model.state_dict()")
    found = {name: value for name, value in root.items() if type(name) is str and isinstance(value, PickledTensor)}
    ignored = {name: value for name, value in root.items() if name not in found}
    if ignored and not found:
        raise _no_tensors(archive.file, ignored)
    tensors = [archive.tensor(*item) for item in found.items()]
    lazy = [name for name, value in found.items() if value.lazy]
    return tuple(tensors), (*_warn_values(ignored, lazy), *_warn_records(archive, tensors))


def _no_tensors(file: HeaderFile, entries: dict[object, object]) -> Exception:
    for name, value in entries.items():
        if type(value) is dict and any(isinstance(inner, PickledTensor) for inner in value.values()):
            return file.refuse(
                f"is a training checkpoint: its tensors are in the entry '{shown(str(name))}', not at the top",
                "save that state dict in a file of its own",
            )
    return file.refuse(f"holds no tensors but {_in_words(entries)}", "save model.state_dict()")


def _in_words(entries: dict[object, object]) -> str:
    return listed(f"{shown(_key(name), 40)} ({describe(value)})" for name, value in entries.items())


def _key(name: object) -> str:
    return str(name) if type(name) in (str, int) else describe(name)


def _warn_values(ignored: dict[object, object], lazy: list[str]) -> list[str]:
    warnings = []
    if ignored:
        warnings.append(f"ignored what is no tensor: {_in_words(ignored)}")
    if lazy:
        warnings.append(f"stored conjugated or negated, their bytes are not their values: {listed(lazy)}")
    return warnings


def _warn_records(archive: _Archive, tensors: list[StoredTensor]) -> list[str]:
    used = {tensor.storage.key for tensor in tensors}
    data = f"{archive.folder}/data/"
    spare = [record for name, record in archive.records.items() if name.startswith(data) and name not in used]
    if not spare:
        return []
    nbytes = sum(record.stored for record in spare)
    return [f"{shown(archive.file.path.name)} holds {format_bytes(nbytes)} that no tensor uses"]
