"""The wire between worker and supervisor: a ring of packed event records in shared memory.

One process writes, one reads, neither waits: a reader that falls behind loses the newest records, which are counted,
and a writer that is killed leaves every finished record to be read. Each record carries a checksum, so that one whose
bytes have not all become visible yet is left for the next look rather than misread.

Layout, little-endian: a header (magic, capacity, bytes ever written, bytes ever read, records lost, and at 64 the mark:
a length and a text) and `capacity` bytes of data, in which records wrap around. A record is a 4-byte length, a 4-byte
CRC-32 of the rest, the fixed part and the two texts, padded to 8 bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading
from meminspect.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CAPACITY", "RingReader", "RingWriter", "create_ring", "pack", "unpack"]

CAPACITY: Final = 32 << 20  # 200,000 events: what a load of tiny tensors may be ahead of its reader
_HEADER_BYTES: Final = 4096
_MARK_AT: Final = 64
_MARK_BYTES: Final = _HEADER_BYTES - _MARK_AT - 2
_MAGIC: Final = 0x31474E49_524D454D  # "MEMRING1"
_MAGIC_SLOT, _CAPACITY_SLOT, _WRITTEN, _READ, _LOST = range(5)

_PREFIX: Final = struct.Struct("<II")
_FIXED: Final = struct.Struct("<qBBBBIqiqqqqqHI")
_WHOLE: Final = struct.Struct("<IIqBBBBIqiqqqqqHI")  # both in one
_EXACT, _HAS_READING = 1, 2
_NO_READING: Final = (0, 0, 0, 0)
_KINDS: Final = {int(kind): kind for kind in EventKind}  # to ask an enumeration for a member takes ten times as long
_OPERATIONS: Final = {int(operation): operation for operation in Operation}
_POOLS: Final = {int(pool): pool for pool in Pool}
_CHUNK_BYTES: Final = 1 << 20
_LONGEST_NAME: Final = 4096
_LONGEST_DETAIL: Final = 1 << 19
_RESERVE: Final = 2 * _LONGEST_DETAIL  # for vital records only


def pack(event: Event) -> bytes:
    """Encode one event as a record; over-long texts are cut."""
    name = event.name.encode("utf-8", "surrogatepass")[:_LONGEST_NAME]
    detail = event.detail.encode("utf-8", "surrogatepass")[:_LONGEST_DETAIL]
    flags = (_EXACT if event.exact else 0) | (_HAS_READING if event.reading is not None else 0)
    body = _FIXED.pack(
        event.t_ns, event.kind, event.operation, event.pool, flags, event.id, event.nbytes, event.file,
        event.offset, *(event.reading or _NO_READING), len(name), len(detail),
    )  # fmt: skip
    body += name + detail
    body += bytes(-len(body) % 8)
    return _PREFIX.pack(_PREFIX.size + len(body), zlib.crc32(body)) + body


def unpack(body: bytes) -> Event:
    """Decode a record without its length and checksum."""
    (t_ns, kind, operation, pool, flags, id_, nbytes, file, offset, *reading, name_length, detail_length) = (
        _FIXED.unpack_from(body)
    )
    middle = _FIXED.size + name_length
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
        body[_FIXED.size : middle].decode("utf-8", "replace"),
        body[middle : middle + detail_length].decode("utf-8", "replace"),
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
        self._capacity = size - _HEADER_BYTES

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
        self._bytes_view = memoryview(self._map)
        self._words = self._bytes_view.cast("I")

    def put(self, event: tuple[Any, ...], vital: bool = False) -> None:
        """Append an event, given as the plain tuple of its fields; never waits.

        A part of a large ring is kept for vital records, which must find room when others no longer do.
        """
        t_ns, kind, operation, pool, id_, nbytes, file, offset, exact, reading, name, detail = event
        first, second = name.encode("utf-8", "surrogatepass"), detail.encode("utf-8", "surrogatepass")
        end = _WHOLE.size + len(first) + len(second)
        length = end + -end % 8
        written = self._slots[_WRITTEN]
        start = written % self._capacity
        if start + length > self._capacity or len(first) > _LONGEST_NAME or len(second) > _LONGEST_DETAIL:
            self.write(pack(Event(*event)), vital)
            return
        if not self._has_room(written, length, vital):
            return
        # In place: with the caches swept by a load, every object on the way costs microseconds.
        at = _HEADER_BYTES + start
        flags = exact if reading is None else exact + _HAS_READING
        heap, in_file, pinned, high = reading or _NO_READING
        _WHOLE.pack_into(
            self._map, at, length, 0, t_ns, kind, operation, pool, flags, id_, nbytes,
            file, offset, heap, in_file, pinned, high, len(first), len(second),
        )  # fmt: skip
        self._map[at + _WHOLE.size : at + end] = first + second
        self._words[at // 4 + 1] = zlib.crc32(self._bytes_view[at + _PREFIX.size : at + length])
        self._slots[_WRITTEN] = written + length

    def write(self, record: bytes, vital: bool = False) -> None:
        """Append a packed record, or count it as lost when there is no room; never waits."""
        written = self._slots[_WRITTEN]
        if not self._has_room(written, len(record), vital):
            return
        start = written % self._capacity
        head = record[: self._capacity - start]
        self._map[_HEADER_BYTES + start : _HEADER_BYTES + start + len(head)] = head
        if len(head) < len(record):
            self._map[_HEADER_BYTES : _HEADER_BYTES + len(record) - len(head)] = record[len(head) :]
        self._slots[_WRITTEN] = written + len(record)

    def _has_room(self, written: int, nbytes: int, vital: bool) -> bool:
        room = self._capacity if vital or self._capacity <= 2 * _RESERVE else self._capacity - _RESERVE
        if written + nbytes - self._slots[_READ] <= room:
            return True
        self._slots[_LOST] += 1
        return False

    def close(self) -> None:
        """Unmap the ring."""
        self._words.release()
        self._bytes_view.release()
        super().close()

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
            length, checksum = _PREFIX.unpack(self._bytes(read, _PREFIX.size))
            if not _PREFIX.size + _FIXED.size <= length <= written - read:
                return
            body = self._bytes(read + _PREFIX.size, length - _PREFIX.size)
            if zlib.crc32(body) != checksum:
                return
            read += length
            self._slots[_READ] = read
            yield unpack(body)

    def _bytes(self, position: int, length: int) -> bytes:
        start = position % self._capacity
        head = self._map[_HEADER_BYTES + start : _HEADER_BYTES + min(start + length, self._capacity)]
        return head + self._map[_HEADER_BYTES : _HEADER_BYTES + length - len(head)]
