"""The wire between worker and supervisor: a ring of packed event records in shared memory.

One process writes, one reads, neither waits: a reader that falls behind loses the newest records, which are counted,
and a writer that is killed leaves every finished record to be read. Each record carries a checksum, so that one whose
bytes have not all become visible yet is left for the next look rather than misread.

Layout, little-endian: a header (magic, capacity, bytes ever written, bytes ever read, records lost, and at 64 the mark:
a length and a text) and `capacity` bytes of data, in which records wrap around. A record is a 4-byte length, a 4-byte
Adler-32 of the rest (which needs no tables, that a load would sweep out of the caches), the fixed part and the two
texts, one behind the other.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Any, Final
from zlib import adler32

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading
from meminspect.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CAPACITY", "RingReader", "RingWriter", "create_ring", "pack", "unpack"]

CAPACITY: Final = 32 << 20  # 200,000 events: what a load of tiny tensors may be ahead of its reader
_HEADER_BYTES: Final = 4096
_MARK_AT: Final = 64
_MARK_BYTES: Final = _HEADER_BYTES - _MARK_AT - 2
_MAGIC: Final = 0x31474E49_524D454D  # "MEMRING1"
_MAGIC_SLOT, _CAPACITY_SLOT, _WRITTEN, _READ, _LOST = range(5)

_PREFIX: Final = struct.Struct("<II")
_FIXED: Final = struct.Struct("<qBBBBIqiqqqqqH")
_PREFIX_BYTES: Final = _PREFIX.size
_pack_prefix: Final[Callable[..., bytes]] = _PREFIX.pack
_pack_fixed: Final[Callable[..., bytes]] = _FIXED.pack
_EXACT, _HAS_READING = 1, 2
_NO_READING: Final = (0, 0, 0, 0)
_KINDS: Final = {int(kind): kind for kind in EventKind}  # to ask an enumeration for a member takes ten times as long
_OPERATIONS: Final = {int(operation): operation for operation in Operation}
_POOLS: Final = {int(pool): pool for pool in Pool}
_CHUNK_BYTES: Final = 1 << 20
_LONGEST_NAME: Final = 4096
_LONGEST_DETAIL: Final = 1 << 19
_RESERVE: Final = 2 * _LONGEST_DETAIL  # for vital records only


def pack(event: tuple[Any, ...]) -> bytes:
    """Encode an event, given as the plain tuple of its fields, as a record; over-long texts are cut."""
    t_ns, kind, operation, pool, id_, nbytes, file, offset, exact, reading, name, detail = event
    if len(name) > _LONGEST_NAME or len(detail) > _LONGEST_DETAIL:
        name, detail = name[:_LONGEST_NAME], detail[:_LONGEST_DETAIL]
    flags = exact if reading is None else exact + _HAS_READING
    heap, in_file, pinned, high = reading or _NO_READING
    text = name + detail
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # half a surrogate pair; to name a handler at once takes microseconds longer
        encoded = text.encode("utf-8", "replace")
    fixed = _pack_fixed(
        t_ns, kind, operation, pool, flags, id_, nbytes, file, offset, heap, in_file, pinned, high, len(name)
    )
    body: bytes = fixed + encoded
    return _pack_prefix(_PREFIX_BYTES + len(body), adler32(body)) + body


def unpack(body: bytes) -> Event:
    """Decode a record without its length and checksum."""
    t_ns, kind, operation, pool, flags, id_, nbytes, file, offset, *reading, name_length = _FIXED.unpack_from(body)
    text = body[_FIXED.size :].decode("utf-8", "replace")
    return Event(
        t_ns,
        _KINDS[kind],
        _OPERATIONS[operation],
        _POOLS[pool],
        id_,
        nbytes,
        file,
        offset,
        bool(flags & _EXACT),
        Reading(*reading) if flags & _HAS_READING else None,
        text[:name_length],
        text[name_length:],
    )


def create_ring(capacity: int = CAPACITY) -> int:
    """Create an empty ring in memory that can be shared and return its file descriptor.

    Raises:
        RunError: there is no room for it.
    """
    descriptor = _nameless_file(_HEADER_BYTES + capacity)
    os.pwrite(descriptor, struct.pack("<5Q", _MAGIC, capacity, 0, 0, 0), 0)
    return descriptor


def _nameless_file(nbytes: int) -> int:
    """Anonymous memory; where the system has none of that kind, or a container forbids it, a file without a name."""
    try:
        descriptor = os.memfd_create("meminspect-ring", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return _temporary_file(nbytes)
    os.ftruncate(descriptor, nbytes)
    return descriptor


def _temporary_file(nbytes: int) -> int:
    import tempfile

    try:
        with tempfile.TemporaryFile(prefix="meminspect-ring-", buffering=0) as file:
            # Written and not only made so long: a mapped hole on a disk that is full would kill whoever touches it.
            for start in range(0, nbytes, _CHUNK_BYTES):
                file.write(bytes(min(_CHUNK_BYTES, nbytes - start)))
            return os.dup(file.fileno())
    except OSError as error:
        where = tempfile.gettempdir()
        raise RunError(f"no room for the events of a run in {where}: {error.strerror}", "set TMPDIR") from error


class _Ring:
    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        # Populated at once: pages that a record touches first would otherwise show up as the load's memory.
        populate = getattr(mmap, "MAP_POPULATE", 0)
        self._map = mmap.mmap(descriptor, size, mmap.MAP_SHARED | populate)
        if not populate:
            self._map[:: mmap.PAGESIZE]  # one byte of each page
        self._slots = memoryview(self._map)[:_MARK_AT].cast("Q")
        if self._slots[_MAGIC_SLOT] != _MAGIC or self._slots[_CAPACITY_SLOT] != size - _HEADER_BYTES:
            raise RunError("the event ring is not one of ours", "this is a bug in meminspect")
        self._capacity, self._end = size - _HEADER_BYTES, size

    @property
    def lost(self) -> int:
        """Records that found no room."""
        return self._slots[_LOST]

    def close(self) -> None:
        """Unmap the ring."""
        self._slots.release()
        self._map.close()


class RingWriter(_Ring):
    """The worker's end. Not thread-safe: the caller holds a lock."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._reserve = _RESERVE if self._capacity > 2 * _RESERVE else 0
        self._written = self._slots[_WRITTEN]
        self._at = self._until = 0  # the next record's place, and the end of what is known to be free behind it

    def put(self, event: tuple[Any, ...], vital: bool = False) -> None:
        """Append an event, given as the plain tuple of its fields, or count it as lost when there is no room.

        A part of a large ring is kept for vital records, which must find room when others no longer do.
        """
        record = pack(event)
        end = self._at + len(record)
        if end <= self._until:
            self._map[self._at : end] = record
            self._at = end
            self._written = self._slots[_WRITTEN] = self._written + len(record)
        else:
            self._put_where_room_is(record, vital)

    def _put_where_room_is(self, record: bytes, vital: bool) -> None:
        """Look how far the reader is; a record may go round the end."""
        free = self._capacity - (self._written - self._slots[_READ])
        if len(record) > free - (0 if vital else self._reserve):
            self._slots[_LOST] += 1
            return
        at = _HEADER_BYTES + self._written % self._capacity
        head, tail = record[: self._end - at], record[self._end - at :]
        self._map[at : at + len(head)] = head
        self._map[_HEADER_BYTES : _HEADER_BYTES + len(tail)] = tail
        self._written = self._slots[_WRITTEN] = self._written + len(record)
        self._at = _HEADER_BYTES + self._written % self._capacity
        self._until = min(self._end, self._at + free - len(record) - self._reserve)

    def mark(self, name: str) -> None:
        """Say what is being worked on that no record tells yet, in case that it is never written; empty for nothing."""
        text = name.encode("utf-8", "surrogatepass")[:_MARK_BYTES]
        self._map[_MARK_AT : _MARK_AT + 2 + len(text)] = len(text).to_bytes(2, "little") + text


class RingReader(_Ring):
    """The supervisor's end."""

    @property
    def has_unread(self) -> bool:
        """Whether something has been written that nobody has read."""
        return self._slots[_READ] < self._slots[_WRITTEN]

    @property
    def mark(self) -> str:
        """What the writer was last working on; empty for nothing."""
        length = int.from_bytes(self._map[_MARK_AT : _MARK_AT + 2], "little")
        return self._map[_MARK_AT + 2 : _MARK_AT + 2 + length].decode("utf-8", "replace")

    def drain(self) -> Iterator[Event]:
        """Yield every whole record that has not been read; stop at the first that is not wholly visible."""
        read, written = self._slots[_READ], self._slots[_WRITTEN]
        while read < written:
            length, checksum = _PREFIX.unpack(self._bytes(read, _PREFIX_BYTES))
            if not _PREFIX_BYTES + _FIXED.size <= length <= written - read:
                return
            body = self._bytes(read + _PREFIX_BYTES, length - _PREFIX_BYTES)
            if adler32(body) != checksum:
                return
            read += length
            self._slots[_READ] = read
            yield unpack(body)

    def _bytes(self, position: int, length: int) -> bytes:
        start = position % self._capacity
        head = self._map[_HEADER_BYTES + start : _HEADER_BYTES + min(start + length, self._capacity)]
        return head + self._map[_HEADER_BYTES : _HEADER_BYTES + length - len(head)]
