"""The directory of a zip archive, read as `torch.save` writes it and trusted in nothing.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central
directory), 4.3.14–4.3.16 (its end, zip64) and 4.5.3 (zip64 extra field). Not `zipfile`: it accepts overlapping and
duplicate entries, takes ten times as long for 100,000 of them, and never says where an entry's data begins.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from meminspect.checkpoint.reading import HeaderFile

__all__ = ["Directory", "Record", "read_directory", "read_record", "record_offsets"]

MAX_DIRECTORY_BYTES = 64 << 20  # 600,000 records as torch writes them
MAX_INFLATION = 200  # pickles of state dicts deflate 10 to 30 times; deflate itself stops at 1032
STORED, DEFLATED = 0, 8
_UNREADABLE = 0x2061  # encrypted, strongly or in its header, or a patch of another file (4.4.4)
_DOS_FOLDER = 0x10  # in the external attributes (4.4.15)
_SATURATED = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field" in a 16-bit or 32-bit field
_ZIP64_FIELD = 1
_AGAIN = "fetch the file again"

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4H4x3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


class Record(NamedTuple):
    """An entry of the directory."""

    header: int  # offset of its local header
    name: str
    method: int  # STORED, DEFLATED or something exotic
    stored: int  # bytes in the file
    nbytes: int  # bytes once inflated


class Directory(NamedTuple):
    """The entries of an archive by name, and where the directory itself begins: behind all of them."""

    records: dict[str, Record]
    offset: int


class _Span(NamedTuple):
    entries: int
    nbytes: int
    offset: int


def read_directory(file: HeaderFile) -> Directory:
    """Read every entry of an archive.

    Raises:
        CheckpointError: no directory (an incomplete download), or one that is damaged or contradicts itself.
    """
    span = _find_directory(file)
    if span.nbytes > MAX_DIRECTORY_BYTES or span.entries > span.nbytes // _ENTRY.size:
        raise file.refuse(
            f"has a zip directory of {span.entries:,} entries in {format_bytes(span.nbytes)}, which cannot be right",
            _AGAIN,
        )
    directory = file.read(span.offset, span.nbytes)
    records: dict[str, Record] = {}
    position = 0
    try:
        for _ in range(span.entries):
            record, position = _parse_entry(directory, position)
            if record.name in records:
                raise ValueError(f"'{shown(record.name)}' stands twice in it")
            records[record.name] = record
        if position != span.nbytes:
            raise ValueError("it holds more than its entries")
    except (ValueError, struct.error) as error:
        reason = "it ends early" if isinstance(error, struct.error) else str(error)
        raise file.refuse(f"has a damaged zip directory: {reason}", _AGAIN) from error
    return Directory(records, span.offset)


def _find_directory(file: HeaderFile) -> _Span:
    tail_offset = max(0, file.nbytes - _END.size - 0xFFFF)
    tail = file.read(tail_offset, file.nbytes - tail_offset)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise file.refuse("is a zip archive without its end: the download is incomplete", _AGAIN)
    _, disk, first_disk, here, entries, nbytes, offset, comment = _END.unpack_from(tail, at)
    end = tail_offset + at
    span = _Span(entries, nbytes, offset)
    if end >= _LOCATOR.size:
        span, end = _zip64_span(file, span, end)
    if disk or first_disk or here != entries or at + _END.size + comment != len(tail):
        raise file.refuse("is a zip archive in several parts or with something behind its end", _AGAIN)
    if span.offset + span.nbytes != end:
        raise file.refuse("has a zip directory that is not where its end record says", _AGAIN)
    return span


def _zip64_span(file: HeaderFile, span: _Span, end: int) -> tuple[_Span, int]:
    signature, _, end64, _ = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
    if signature != b"PK\6\7":
        return span, end
    if end64 + _END64.size > end - _LOCATOR.size:
        raise file.refuse("has a zip64 end record outside the file", _AGAIN)
    signature, _, _, _, disk, first_disk, here, *fields = _END64.unpack(file.read(end64, _END64.size))
    span64 = _Span(*fields)
    agree = all(small in (*_SATURATED, large) for small, large in zip(span, span64, strict=True))
    # Readers differ in which record they believe; where both say the same there is nothing to differ about.
    if signature != b"PK\6\6" or disk or first_disk or here != span64.entries or not agree:
        raise file.refuse("has two zip end records that contradict each other", _AGAIN)
    return span64, end64


def _parse_entry(directory: bytes, position: int) -> tuple[Record, int]:
    fields = _ENTRY.unpack_from(directory, position)
    signature, _, _, flags, method, _, stored, nbytes, name_len, extra_len, comment_len, disk, _, kind, header = fields
    name_at = position + _ENTRY.size
    extra_at = name_at + name_len
    after = extra_at + extra_len + comment_len
    if signature != b"PK\1\2" or after > len(directory):
        raise ValueError("an entry lies outside it")
    name = directory[name_at:extra_at].decode("utf-8")
    if flags & _UNREADABLE:
        raise ValueError(f"'{shown(name)}' is encrypted")
    # torch 2.13 reads nothing of a record marked as a folder and returns whatever its memory held.
    if nbytes and (kind & _DOS_FOLDER or name.endswith("/")):
        raise ValueError(f"'{shown(name)}' is marked as a folder but holds data")
    if disk or _escapes(name):
        raise ValueError(f"'{shown(name)}' lies outside the archive")
    if _SATURATED[1] in (stored, nbytes, header):
        nbytes, stored, header = _zip64_sizes(directory[extra_at : extra_at + extra_len], (nbytes, stored, header))
    if method == STORED and stored != nbytes:
        raise ValueError(f"'{shown(name)}' has two sizes")
    return Record(header, name, method, stored, nbytes), after


def _escapes(name: str) -> bool:
    return name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/")


def _zip64_sizes(extra: bytes, sizes: tuple[int, int, int]) -> list[int]:
    """Replace the saturated ones of (inflated size, stored size, header offset) from the zip64 field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64_FIELD:
            numbers = struct.iter_unpack("<Q", extra[position + 4 : position + 4 + length // 8 * 8])
            try:
                return [next(numbers)[0] if size == _SATURATED[1] else size for size in sizes]
            except (StopIteration, struct.error) as error:
                raise ValueError("a zip64 field is too short") from error
        position += 4 + length
    return list(sizes)


def record_offsets(file: HeaderFile, directory: Directory) -> dict[str, int]:
    """Where each record's data begins in the file: behind its local header, whose padding is its own.

    Raises:
        CheckpointError: a local header is not where the directory says, or two records overlap.
    """
    offsets: dict[str, int] = {}
    covered = 0
    for record in sorted(directory.records.values()):
        encoded = record.name.encode("utf-8")
        length = _LOCAL.size + len(encoded)
        if record.header < covered or record.header + length > directory.offset:
            raise file.refuse(f"has a damaged zip directory: '{shown(record.name)}' overlaps another record", _AGAIN)
        local = file.read(record.header, length)
        signature, *_, name_len, extra_len = _LOCAL.unpack_from(local)
        if signature != b"PK\3\4" or name_len != len(encoded) or local[_LOCAL.size :] != encoded:
            raise file.refuse(f"is damaged where '{shown(record.name)}' should begin", _AGAIN)
        offsets[record.name] = record.header + length + extra_len
        covered = offsets[record.name] + record.stored
        if covered > directory.offset:
            raise file.refuse(f"has a record '{shown(record.name)}' that reaches into its directory", _AGAIN)
    return offsets


def read_record(file: HeaderFile, record: Record, offset: int, max_bytes: int) -> bytes:
    """The content of a small record, inflated where it is deflated.

    Raises:
        CheckpointError: it is larger than `max_bytes`, inflates beyond reason or is damaged.
    """
    name = shown(record.name)
    if max(record.nbytes, record.stored) > max_bytes:
        raise file.refuse(f"has a record '{name}' of {format_bytes(record.nbytes)}; {format_bytes(max_bytes)} are read")
    data = file.read(offset, record.stored)
    if record.method == STORED:
        return data
    if record.method != DEFLATED or record.nbytes > record.stored * MAX_INFLATION:
        raise file.refuse(f"has a record '{name}' that is compressed beyond reason", _AGAIN)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, record.nbytes + 1)
    except zlib.error as error:
        raise file.refuse(f"has a damaged record '{name}'", _AGAIN) from error
    if len(data) != record.nbytes:
        raise file.refuse(f"has a record '{name}' of another size than it says", _AGAIN)
    return data
