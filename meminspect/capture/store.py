"""The capture file: written by one supervisor, read by anyone, live or later. See `schema` for what is in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.batches import expanded
from meminspect.capture.records import Cached, DeviceSample, Event, EventKind, LogLine, Operation, Pool, Reading, Sample
from meminspect.capture.schema import APPLICATION_ID, DDL, VERSION
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["SUFFIX", "CaptureReader", "CaptureWriter"]

SUFFIX: Final = ".meminspect"

_SAMPLES: Final = (
    "SELECT t_ns, heap_bytes, file_bytes, pinned_bytes, swap_bytes, high_water_bytes, read_bytes, minor_faults, "
    "major_faults, vram_used_bytes{} FROM samples WHERE t_ns > ? ORDER BY t_ns LIMIT ?"
)
_EVENTS: Final = (
    "SELECT seq, t_ns, kind, operation, pool, id, bytes, file, file_offset, exact, "
    "heap_bytes, file_bytes, pinned_bytes, high_water_bytes, name, detail "
    "FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
)
_ADD_SAMPLE: Final = f"INSERT INTO samples VALUES ({', '.join('?' * len(Sample._fields))})"  # noqa: S608 - only '?'
_ADD_DEVICE: Final = f"INSERT INTO device_samples VALUES ({', '.join('?' * len(DeviceSample._fields))})"  # noqa: S608
_ADD_EVENT: Final = f"INSERT INTO events VALUES ({', '.join('?' * 16)})"  # noqa: S608 - only '?'
_PAGE_CACHE_SINCE, _TOTALS_SINCE, _DEVICES_SINCE = 2, 3, 4  # versions of the schema
_ALL: Final = -1  # what LIMIT takes for none
_OBJECTS: Final = frozenset(  # facts whose keys everybody asks for
    ("spec", "started", "checkpoint", "machine", "theory", "plan", "vram", "pools", "baseline", "returned", "resident",
     "cache", "window", "io", "pressure", "hooks", "tensors", "steady", "forward", "supervision", "limit", "better",
     "outcome", "mark", "kept", "opened", "library", "floor")
)  # fmt: skip
_KINDS: Final = {kind.name.lower(): kind for kind in EventKind}
_OPERATIONS: Final = {operation.name.lower(): operation for operation in Operation}
_POOLS: Final = {pool.name.lower(): pool for pool in Pool}
_KIND_WORDS: Final = ("", *_KINDS)  # by number, of which the first is 1
_OPERATION_WORDS: Final = tuple(_OPERATIONS)
_POOL_WORDS: Final = tuple(_POOLS)


class CaptureWriter:
    """Creates a capture and appends to it; used by one thread at a time.

    Raises:
        CaptureError: the file exists already or cannot be written.
    """

    def __init__(self, path: Path, started_ns: int) -> None:
        self._started_ns = started_ns
        self._seq = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # The schema goes in before WAL: in WAL mode a copy of the lone file would have no tables.
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {DDL} COMMIT;"
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        except (OSError, sqlite3.Error) as error:
            if not isinstance(error, FileExistsError):
                with contextlib.suppress(OSError):
                    path.unlink()
            reason = error.strerror if isinstance(error, OSError) else error  # which would name the path again
            raise CaptureError(f"cannot write the capture {path}: {reason}", "name another with --out") from error

    def fact(self, name: str, value: object) -> None:
        """Store a JSON document under a name, replacing what it held."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def ledger(self, rows: Iterable[tuple[str, str, str, str, str, int]]) -> None:
        """Store the theory's steps: phase, operation, pool, item, tensor, bytes."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO ledger (phase, operation, pool, item, tensor, bytes) VALUES (?, ?, ?, ?, ?, ?)", rows
            )

    def append(
        self,
        samples: Sequence[Sample],
        events: Sequence[Event],
        log: Sequence[LogLine],
        page_cache: Sequence[Cached] = (),
        devices: Sequence[DeviceSample] = (),
    ) -> None:
        """Append in one transaction, so that a reader sees a moment whole.

        Raises:
            CaptureError: the disk is full or fails.
        """
        if not (samples or events or log or page_cache or devices):
            return
        try:
            with self._transaction():
                if samples:
                    self._db.executemany(
                        _ADD_SAMPLE, [(sample.t_ns - self._started_ns, *sample[1:]) for sample in samples]
                    )
                if events:
                    self._db.executemany(_ADD_EVENT, [self._event_row(event) for event in events])
                if log:
                    self._db.executemany(
                        "INSERT INTO log VALUES (?, ?, ?)",
                        [(self._since_start(line.t_ns), line.stream, line.text) for line in log],
                    )
                if page_cache:
                    self._db.executemany(
                        "INSERT INTO page_cache VALUES (?, ?, ?)",
                        [(self._since_start(row.t_ns), row.file, row.cached_bytes) for row in page_cache],
                    )
                if devices:
                    self._db.executemany(_ADD_DEVICE, [(self._since_start(row.t_ns), *row[1:]) for row in devices])
        except sqlite3.Error as error:
            raise CaptureError(f"cannot write to the capture: {error}") from error

    def close(self) -> None:
        """Fold everything into the one file, so that it can be copied."""
        with contextlib.suppress(sqlite3.Error):  # a full disk leaves the WAL beside it: the next reader recovers
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(error, (sqlite3.Error, OverflowError)):
                raise CaptureError(f"cannot write to the capture: {error}") from error
            raise

    def _since_start(self, t_ns: int) -> int:
        """A worker may have been waiting for its run: what it did before counts as done at the start."""
        return max(0, t_ns - self._started_ns)

    def _event_row(self, event: Event) -> tuple[object, ...]:
        self._seq += 1
        return (
            self._seq, self._since_start(event.t_ns), _KIND_WORDS[event.kind], _OPERATION_WORDS[event.operation],
            _POOL_WORDS[event.pool], event.id, event.nbytes, event.file, event.offset, int(event.exact),
            *(event.reading or (None, None, None, None)), event.name, event.detail,
        )  # fmt: skip


class CaptureReader:
    """Reads a capture, growing or finished; times are nanoseconds since the run's start.

    A half-written file is recovered by SQLite as it is opened. A file or folder that is not writable is read through a
    private copy, since a WAL cannot be opened without writing beside it.

    Raises:
        CaptureError: the file is absent, not a capture, or of a version that this program does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._private: tempfile.TemporaryDirectory[str] | None = None
        if not path.is_file():
            raise CaptureError(f"{path}: no such capture", "`meminspect run` writes one and prints its path")
        try:
            self._db = sqlite3.connect(self._openable(path), isolation_level=None, timeout=5)
            self._db.execute("PRAGMA trusted_schema = OFF")  # somebody else's file may carry views and triggers
        except (OSError, sqlite3.Error) as error:
            self._discard_copy()
            raise CaptureError(f"{path} is not a readable capture: {error}") from error
        try:
            self._version = self._check()
        except CaptureError:
            self._db.close()
            self._discard_copy()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_copy(self) -> bool:
        """Whether this is a private copy, which does not grow with the file."""
        return self._private is not None

    def fact(self, name: str) -> Any:
        """The JSON document stored under a name; None where there is none (yet)."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", name)
        try:
            value = json.loads(rows[0][0]) if rows else None
        except ValueError as error:
            raise CaptureError(f"{self.path} is damaged: its '{name}' is not JSON") from error
        if name in _OBJECTS and not isinstance(value, (dict, type(None))):
            raise CaptureError(f"{self.path} is damaged: its '{name}' is of another kind")
        return value

    def samples(self, after_t_ns: int = -1, limit: int = _ALL) -> list[Sample]:
        """Samples later than a time, in order; the first so many of them."""
        query = _SAMPLES.format(", total_bytes" if self._version >= _TOTALS_SINCE else "")
        rows = self._rows(query, after_t_ns, limit)
        return [Sample(*row) for row in rows]

    def events(self, after_seq: int = 0, limit: int = _ALL) -> list[tuple[int, Event]]:
        """Sequence number and event of everything later than a sequence number, in order.

        A batch's operations come one by one, under the number of the batch.

        Args:
            after_seq: the number.
            limit: the first so many records; of a batch all or nothing.
        """
        rows = self._rows(_EVENTS, after_seq, limit)
        try:
            return [(row[0], event) for row in rows for event in expanded(_event(row))]
        except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            raise CaptureError(f"{self.path} is damaged: an event is of an unknown kind") from error

    def log(self, after_lines: int = 0) -> list[LogLine]:
        """What the worker's code printed, in order, without so many first lines."""
        rows = self._rows("SELECT t_ns, stream, text FROM log WHERE rowid > ? ORDER BY rowid", after_lines)
        return [LogLine(*row) for row in rows]

    def page_cache(self) -> list[Cached]:
        """How much of each file was in the page cache, in order of time; nothing where the capture is of version 1."""
        if self._version < _PAGE_CACHE_SINCE:
            return []
        return [Cached(*row) for row in self._rows("SELECT t_ns, file, cached_bytes FROM page_cache ORDER BY t_ns")]

    def device_samples(self, after_t_ns: int = -1) -> list[DeviceSample]:
        """What the driver told of each GPU later than a time, in order; before version 4 nothing."""
        if self._version < _DEVICES_SINCE:
            return []
        query = f"SELECT {', '.join(DeviceSample._fields)} FROM device_samples WHERE t_ns > ? ORDER BY t_ns, gpu"  # noqa: S608
        return [DeviceSample(*row) for row in self._rows(query, after_t_ns)]

    def ledger(self) -> list[tuple[str, str, str, str, str, int]]:
        """The theory's steps: phase, operation, pool, item, tensor, bytes."""
        return self._rows("SELECT phase, operation, pool, item, tensor, bytes FROM ledger ORDER BY step")

    def finish(self, outcome: object) -> None:
        """Give a capture whose supervisor is gone its outcome and fold it into one file."""
        with contextlib.suppress(sqlite3.OperationalError):  # read-only or locked: it stays as it is
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('outcome', ?)", (json.dumps(outcome),))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode = DELETE")

    def _check(self) -> int:
        """The version of the schema that it is written in."""
        try:
            application, version = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
            )
        except sqlite3.Error as error:
            raise CaptureError(f"{self.path} is not a readable capture: {error}") from error
        if application != APPLICATION_ID:
            raise CaptureError(f"{self.path} is not a meminspect capture")
        if version > VERSION:
            raise CaptureError(
                f"{self.path} was written by a newer meminspect (schema {version})", "upgrade meminspect"
            )
        return version

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise CaptureError(f"{self.path} is damaged: {error}") from error

    def close(self) -> None:
        """Close the file and drop the private copy, if there is one."""
        with contextlib.suppress(sqlite3.Error):  # closed under our eyes, it could not leave WAL: the last one out does
            if self._db.execute("SELECT 1 FROM facts WHERE name = 'outcome'").fetchone():
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()
        self._discard_copy()

    def _openable(self, path: Path) -> Path:
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            return path
        self._private = tempfile.TemporaryDirectory(prefix="meminspect-")
        copy = Path(self._private.name) / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        return copy

    def _discard_copy(self) -> None:
        if self._private is not None:
            self._private.cleanup()


def _event(row: Sequence[Any]) -> Event:
    (_, t_ns, kind, operation, pool, id_, nbytes, file, offset, exact, heap, in_file, pinned, high, name, detail) = row
    reading = None if heap is None else Reading(heap, in_file, pinned, high)
    return Event(
        t_ns, _KINDS[kind], _OPERATIONS[operation], _POOLS[pool], id_, nbytes, file, offset, bool(exact), reading,
        name, detail,
    )  # fmt: skip
