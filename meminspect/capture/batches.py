"""One record for many operations: those that take no time, and those on tiny tensors in very large numbers.

A batch says what they were, in their order, and when the first began and the last ended. Readers of a capture get
them one by one, as if each had been recorded by itself, spread evenly over that time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Event, EventKind, Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Batch", "expanded"]

_MOST: Final = 256  # operations
_LONGEST_TEXT: Final = 64 << 10  # characters of all names


class Batch:
    """Operations as they are gathered.

    Args:
        since_ns: when the first began.
    """

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self._kinds: dict[tuple[Operation, Pool, int], int] = {}
        self._rows: list[tuple[int, int, str, int, str, int]] = []
        self._room = _LONGEST_TEXT

    @property
    def full(self) -> bool:
        """Whether it has to be written before more is added."""
        return len(self._rows) >= _MOST or self._room < 0

    def add(
        self, operation: Operation, pool: Pool, id_: int, name: str, nbytes: int, detail: str, file: int, offset: int
    ) -> None:
        """Add one operation; RELEASE is the end of what an earlier one, of the same id, has materialised."""
        kind = self._kinds.setdefault((operation, pool, file), len(self._kinds))
        # In one step: the garbage collector may call back between two, and add another.
        self._rows.append((kind, id_, name, nbytes, detail, offset))
        self._room -= len(name)

    def event(self, t_ns: int) -> Event:
        """The record of all of them, written at a moment."""
        detail = {
            "elapsed_ns": t_ns - self.since_ns,
            "kinds": [(operation.name.lower(), pool.name.lower(), file) for operation, pool, file in self._kinds],
            "columns": ("kind", "id", "name", "bytes", "detail", "file_offset"),
            "rows": self._rows,
        }
        return Event(t_ns, EventKind.BATCH, detail=json.dumps(detail, separators=(",", ":")))


def expanded(event: Event) -> Iterable[Event]:
    """What an event stands for: itself, or the events of a batch's operations.

    Raises:
        ValueError, KeyError, TypeError, IndexError: the batch is damaged.
    """
    return _members(event) if event.kind is EventKind.BATCH else (event,)


def _members(batch: Event) -> Iterator[Event]:
    document = json.loads(batch.detail)
    elapsed_ns, rows = document["elapsed_ns"], document["rows"]
    since_ns = batch.t_ns - elapsed_ns
    kinds = [(Operation[operation.upper()], Pool[pool.upper()], file) for operation, pool, file in document["kinds"]]
    for number, (kind, id_, name, nbytes, detail, offset) in enumerate(rows):
        operation, pool, file = kinds[kind]
        begin_ns = since_ns + elapsed_ns * number // len(rows)
        if operation is Operation.RELEASE:
            yield Event(begin_ns, EventKind.RELEASE, Operation.MATERIALISE, pool, id_, nbytes, name=name)
            continue
        end_ns = since_ns + elapsed_ns * (number + 1) // len(rows)
        yield Event(begin_ns, EventKind.BEGIN, operation, pool, id_, nbytes, file, offset, name=name, detail=detail)
        yield Event(end_ns, EventKind.END, operation, pool, id_, nbytes, name=name)
