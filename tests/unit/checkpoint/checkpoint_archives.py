"""Writes zip archives and pickles by hand, with any part of them falsified."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """BININT, or LONG1 for what that cannot hold."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def tuple_of(*parts: bytes) -> bytes:
    """MARK … TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def storage(key: str = "0", elements: int = 4, kind: str = "torch\nFloatStorage") -> bytes:
    """A storage as torch's persistent id."""
    return tuple_of(text("storage"), f"c{kind}\n".encode(), text(key), text("cpu"), number(elements)) + b"Q"


def tensor(shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, of: bytes = b"") -> bytes:
    """A call of _rebuild_tensor_v2."""
    layout = number(offset), tuple_of(*map(number, shape)), tuple_of(*map(number, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(of or storage(), *layout, b"\x89", b"}") + b"R"


def state_dict(**values: bytes) -> bytes:
    """A pickle of a dict."""
    items = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02}(" + items + b"u."


@dataclass
class Entry:
    """A record, and what its headers say of it where that is not the truth."""

    name: str
    data: bytes = b""
    method: int = 0
    nbytes: int | None = None
    stored: int | None = None
    header: int | None = None
    flags: int = 0
    attributes: int = 0
    local_name: str | None = None
    local_extra: bytes = b""
    extra: bytes = b""


@dataclass
class Archive:
    """A zip archive as a list of entries, with an end record that can lie."""

    entries: list[Entry] = field(default_factory=list)
    count: int | None = None
    directory_bytes: int | None = None
    directory_offset: int | None = None
    comment: bytes = b""
    zip64: bool = False

    def build(self) -> bytes:
        body, directory = b"", b""
        for entry in self.entries:
            at, name = len(body), entry.name.encode()
            header = at if entry.header is None else entry.header
            local = name if entry.local_name is None else entry.local_name.encode()
            nbytes = len(entry.data) if entry.nbytes is None else entry.nbytes
            stored = len(entry.data) if entry.stored is None else entry.stored
            lengths = len(local), len(entry.local_extra)
            body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, entry.flags, entry.method, 0, 0, 0, 0, 0, *lengths)
            body += local + entry.local_extra + entry.data
            directory += struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 20, 20, entry.flags, entry.method, 0, 0, zlib.crc32(entry.data),
                stored, nbytes, len(name), len(entry.extra), 0, 0, 0, entry.attributes, header,
            ) + name + entry.extra  # fmt: skip
        count = len(self.entries) if self.count is None else self.count
        size = len(directory) if self.directory_bytes is None else self.directory_bytes
        offset = len(body) if self.directory_offset is None else self.directory_offset
        return body + directory + self._end(len(body) + len(directory), count, size, offset)

    def _end(self, at: int, count: int, size: int, offset: int) -> bytes:
        end = b""
        if self.zip64:
            end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
            end += struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
            count, size, offset = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
        return (
            end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, len(self.comment)) + self.comment
        )


def archive_of(pickle: bytes, **records: bytes) -> bytes:
    """An honest archive of a pickle and its storages (`_0=…` for key 0), written by zipfile."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, data in records.items():
            archive.writestr(f"archive/data/{key.lstrip('_')}", data)
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()
