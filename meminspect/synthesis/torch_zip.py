"""The zip archive of torch.save, written in one pass without torch.

Sources: pytorch, caffe2/serialize/inline_container.cc (`getPadding`, `PyTorchStreamWriter`) for the records and their
alignment; miniz 3.0 (third_party/miniz-3.0.2, `mz_zip_writer_add_mem_ex_v2`) and PKWARE's APPNOTE 6.3.9 for the
structures; torch/serialization.py, `_save`, for the order of the records. Compared with files of torch 2.13.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meminspect.synthesis.torch_pickle import TensorRecord, pickle_state_dict, pickle_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import PlannedTensor
    from meminspect.synthesis.values import Source

__all__ = ["write_state_dict", "write_tensor"]

_ALIGNMENT: Final = 64
_LIMIT: Final = 0xFFFFFFFF  # what 32 bits cannot say any more is said in the zip64 extra field
_UTF8, _DESCRIPTOR = 0x0800, 0x0008


def write_state_dict(
    output: Output,
    root: str,
    tensors: Sequence[PlannedTensor],
    *,
    ordered: bool,
    ties: Sequence[tuple[str, str]] = (),
) -> None:
    """Write what `torch.save(state_dict, root + suffix)` writes.

    Args:
        output: an empty file.
        root: the folder inside the archive: torch takes the file's name up to its last dot.
        tensors: in the order of the state dict.
        ordered: whether the state dict is an OrderedDict rather than a dict.
        ties: (alias, name) of further names at the end that share the memory of the tensor `name`.
    """
    records = {tensor.name: _record(tensor, key) for key, tensor in enumerate(tensors)}
    aliases = [
        TensorRecord(alias, same.dtype, same.shape, same.key) for alias, name in ties for same in (records[name],)
    ]
    content = pickle_state_dict([*records.values(), *aliases], ordered=ordered)
    _write_archive(output, root, content, [tensor.source for tensor in tensors])


def write_tensor(output: Output, root: str, tensor: PlannedTensor) -> None:
    """Write what `torch.save(tensor, root + suffix)` writes."""
    _write_archive(output, root, pickle_tensor(_record(tensor, 0)), [tensor.source])


def _record(tensor: PlannedTensor, key: int) -> TensorRecord:
    return TensorRecord(tensor.name, tensor.dtype, tensor.shape, str(key))


def _write_archive(output: Output, root: str, content: bytes, storages: Sequence[Source]) -> None:
    archive = _Archive(output, root)
    archive.add("data.pkl", content)
    archive.add(".format_version", b"1")
    archive.add(".storage_alignment", str(_ALIGNMENT).encode())
    archive.add("byteorder", b"little")
    for key, storage in enumerate(storages):
        archive.add(f"data/{key}", storage)
    archive.add("version", b"3\n")
    archive.add(".data/serialization_id", archive.fingerprint())
    archive.close()


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    nbytes: int
    crc: int
    offset: int  # of its local header

    @property
    def flags(self) -> int:
        return _UTF8 | (_DESCRIPTOR if self.nbytes else 0)

    @property
    def zip64(self) -> bytes:
        """The zip64 extra field; empty where 32 bits are enough."""
        large = struct.pack("<QQ", self.nbytes, self.nbytes) if self.nbytes >= _LIMIT else b""
        far = struct.pack("<Q", self.offset) if self.offset >= _LIMIT else b""
        return struct.pack("<HH", 1, len(large + far)) + large + far if large or far else b""

    @property
    def local_header(self) -> bytes:
        """The header before the data, which a padding field (id 'FB') moves to a multiple of the alignment."""
        zip64 = self.zip64
        padding = -(self.offset + 30 + len(self.name) + len(zip64) + 4) % _ALIGNMENT
        extra = zip64 + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        # Checksum and sizes are zero here: they follow the data, since torch writes in one pass too.
        fields = (b"PK\3\4", 0, self.flags, 0, 0, 0, 0, 0, 0, len(self.name), len(extra))
        return struct.pack("<4s5H3I2H", *fields) + self.name + extra

    @property
    def descriptor(self) -> bytes:
        """The checksum and sizes after the data."""
        if not self.nbytes:
            return b""
        return struct.pack("<4sIQQ" if self.zip64 else "<4sIII", b"PK\7\10", self.crc, self.nbytes, self.nbytes)

    @property
    def central_header(self) -> bytes:
        """The entry in the directory at the archive's end."""
        zip64, size = self.zip64, min(self.nbytes, _LIMIT)
        sizes = (self.crc, size, size, len(self.name), len(zip64), 0, 0, 0, 0, min(self.offset, _LIMIT))
        return struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, self.flags, 0, 0, 0, *sizes) + self.name + zip64


class _Archive:
    def __init__(self, output: Output, root: str) -> None:
        self._output = output
        self._root = root
        self._entries: list[_Entry] = []

    def add(self, name: str, content: bytes | Source) -> None:
        nbytes = len(content) if isinstance(content, bytes) else content.nbytes
        offset, path = self._output.position, f"{self._root}/{name}".encode()
        self._output.header(_Entry(path, nbytes, 0, offset).local_header)
        if isinstance(content, bytes):
            self._output.header(content)
            crc = zlib.crc32(content)
        else:
            crc = self._output.tensor(content)
        entry = _Entry(path, nbytes, crc, offset)
        self._output.header(entry.descriptor)
        self._entries.append(entry)

    def fingerprint(self) -> bytes:
        """Twenty digits of the records' names, twenty of their checksums.

        The second half is torch's (`writeSerializationId`, c10 `hash_combine`); its first half is the C++ library's
        hash of the names in the order of an unordered set, which nothing reads: another hash takes its place.
        """
        names = hashlib.sha256(b"\0".join(entry.name for entry in self._entries)).digest()
        checksums = 0
        for entry in self._entries:
            if entry.nbytes:  # torch passes over empty records
                mixed = entry.crc + 0x9E3779B9 + (checksums << 6) + (checksums >> 2)
                checksums ^= mixed & 0xFFFFFFFFFFFFFFFF
        return f"{int.from_bytes(names[:8], 'little'):020}{checksums:020}".encode()

    def close(self) -> None:
        start = self._output.position
        directory = b"".join(entry.central_header for entry in self._entries)
        end, count = start + len(directory), len(self._entries)
        self._output.header(directory)
        # 44: bytes after this field; 0x031E: by Unix, version 3.0; 45: zip64 is needed.
        self._output.header(
            struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, len(directory), start)
        )
        self._output.header(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        few = min(count, 0xFFFF)
        self._output.header(struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, few, few, len(directory), min(start, _LIMIT), 0))
