"""One record for many operations: those that take no time, and those on tiny tensors in very large numbers.

A batch says what they were, in their order, and when the first began and the last ended. Readers of a capture get
them one by one, as if each had been recorded by itself, spread evenly over that time.
"""

from __future__ import annotations

import functools
import json
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.records import Event, EventKind, Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Batch", "expanded"]

_MOST: Final = 256  # operations
_LONGEST_TEXT: Final = 64 << 10  # characters of all names
_BITS: Final = 4  # that an operation or a pool takes
_COLUMNS: Final = '"columns":["kind","id","name","bytes","detail","file_offset"]'


class Batch:
    """Operations as they are gathered.

    Args:
        since_ns: when the first began.
    """

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self._kinds: dict[int, int] = {}  # by one number of all three: members of an enumeration hash slowly
        self._rows: list[tuple[int, int, str, int, str, int]] = []
        self._room = _LONGEST_TEXT

    def add(
        self, operation: Operation, pool: Pool, id_: int, name: str, nbytes: int, detail: str, file: int, offset: int
    ) -> bool:
        """Add one operation; RELEASE is the end of what an earlier one, of the same id, has materialised.

        Returns:
            Whether it has to be written before more is added.
        """
        key = (file << 2 * _BITS) | (operation << _BITS) | pool
        kind = self._kinds.setdefault(key, len(self._kinds))
        # In one step: the garbage collector may call back between two, and add another.
        self._rows.append((kind, id_, name, nbytes, detail, offset))
        self._room -= len(name)
        return len(self._rows) >= _MOST or self._room < 0

    def events(self, t_ns: int) -> Iterable[Event]:
        """The records of all, written at a moment: one, or of a single operation those that it would have by itself."""
        if len(self._rows) == 1:
            return _of_one(*_kind(next(iter(self._kinds))), self._rows[0][1:], self.since_ns, t_ns)
        return (self._event(t_ns),)

    def _event(self, t_ns: int) -> Event:
        # Written by hand: of three rows, which are many a batch, it takes half the encoder's time.
        rows = ",".join(
            [
                f"[{kind},{id_},{quoted(name)},{nbytes},{quoted(detail)},{offset}]"
                for kind, id_, name, nbytes, detail, offset in self._rows
            ]
        )
        kinds = ",".join(map(_kind_text, self._kinds))
        head = f'"elapsed_ns":{t_ns - self.since_ns},"kinds":[{kinds}],{_COLUMNS}'
        return Event(t_ns, EventKind.BATCH, detail=f'{{{head},"rows":[{rows}]}}')


@functools.lru_cache(maxsize=4096)  # of each file few
def _kind(key: int) -> tuple[Operation, Pool, int]:
    mask = (1 << _BITS) - 1
    return Operation(key >> _BITS & mask), Pool(key & mask), key >> 2 * _BITS


@functools.lru_cache(maxsize=4096)
def _kind_text(key: int) -> str:
    operation, pool, file = _kind(key)
    return f'["{operation.name.lower()}","{pool.name.lower()}",{file}]'


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
    for number, (kind, *row) in enumerate(rows):
        began_ns = since_ns + elapsed_ns * number // len(rows)
        ended_ns = since_ns + elapsed_ns * (number + 1) // len(rows)
        operation, pool, file = kinds[kind]
        yield from _of_one(operation, pool, file, row, began_ns, ended_ns)


def _of_one(
    operation: Operation, pool: Pool, file: int, row: Sequence[Any], began_ns: int, ended_ns: int
) -> Iterator[Event]:
    id_, name, nbytes, detail, offset = row
    if operation is Operation.RELEASE:
        yield Event(began_ns, EventKind.RELEASE, Operation.MATERIALISE, pool, id_, nbytes, name=name)
        return
    yield Event(began_ns, EventKind.BEGIN, operation, pool, id_, nbytes, file, offset, name=name, detail=detail)
    yield Event(ended_ns, EventKind.END, operation, pool, id_, nbytes, name=name)
