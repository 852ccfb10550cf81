"""Events by hand and by hypothesis, and rings to send them through."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading
from meminspect.capture.ring import CAPACITY, RingReader, RingWriter, create_ring

if TYPE_CHECKING:
    from pathlib import Path

RING_HEADER_BYTES = 4096

_signed = st.integers(-(2**63), 2**63 - 1)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)

readings = st.builds(Reading, _signed, _signed, _signed, _signed)
events = st.builds(
    Event,
    t_ns=_signed,
    kind=st.sampled_from([kind for kind in EventKind if kind is not EventKind.BATCH]),
    operation=st.sampled_from(Operation),
    pool=st.sampled_from(Pool),
    id=st.integers(0, 2**32 - 1),
    nbytes=_signed,
    file=st.integers(-(2**31), 2**31 - 1),
    offset=_signed,
    exact=st.booleans(),
    reading=st.none() | readings,
    name=_texts,
    detail=_texts,
)


def numbered(index: int, name: str = "layer.weight") -> Event:
    """An event that is told from others by its id."""
    return Event(index, EventKind.BEGIN, Operation.MATERIALISE, Pool.HEAP, id=index, nbytes=4096, name=name)


class Ring:
    """Both ends of a ring in one process, and its memory for a test to damage."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.descriptor = create_ring(capacity)
        self.writer = RingWriter(self.descriptor)
        self.reader = RingReader(self.descriptor)

    def flip(self, position: int) -> None:
        """Invert the byte at a position of the data."""
        offset = RING_HEADER_BYTES + position
        byte = os.pread(self.descriptor, 1, offset)[0]
        os.pwrite(self.descriptor, bytes([byte ^ 0xFF]), offset)

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        os.close(self.descriptor)


def files_in(folder: Path) -> list[str]:
    """Sorted names of a folder's files."""
    return sorted(path.name for path in folder.iterdir())
