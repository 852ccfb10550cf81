"""Memory over time in bounded space, for drawing: every column of a picture keeps its highest and its lowest reading.

A bin is nothing but maxima, so two of them merge field by field, in whatever order and how often it happens.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Column", "Series", "Timeline"]

_FIRST_WIDTH_NS: Final = 1 << 10  # of a bin, before any doubling: a run of 1 s has thousands of them
_NO_VRAM: Final = (-1, -1)


class Column(NamedTuple):
    """One column of a picture, bytes above the baseline. The pools are as they were when their total was highest."""

    heap_bytes: int
    file_bytes: int
    pinned_bytes: int
    low_bytes: int  # the lowest total in it
    vram_bytes: int | None  # the highest reading in it; the last one before it where it has none
    undivided_bytes: int = 0  # where the system tells no pools

    @property
    def total_bytes(self) -> int:
        """The highest total in it."""
        return self.heap_bytes + self.file_bytes + self.pinned_bytes + self.undivided_bytes


class _Bin(NamedTuple):
    """All readings of a stretch of time; bytes, and nanoseconds since the load began."""

    last: tuple[int, int, int, int, int, int]  # time, total, heap, file, pinned, undivided of the last reading
    peak: tuple[int, int, int, int, int]  # total, heap, file, pinned, undivided where the total is highest
    minus_low_bytes: int  # the lowest total, negative so that its maximum is kept
    vram_last: tuple[int, int]  # time and bytes of the device's last reading
    vram_bytes: int  # its highest; -1 without one


def _merged(one: _Bin, other: _Bin) -> _Bin:
    return _Bin._make(map(max, one, other))


@dataclass(frozen=True)
class Series:
    """A timeline as it was at one moment; immutable, so that any thread may draw it."""

    _bins: tuple[_Bin, ...] = ()  # those that have a reading, in order of time

    @property
    def end_ns(self) -> int:
        """The time of the last reading since the load began; 0 without one."""
        return self._bins[-1].last[0] if self._bins else 0

    @functools.cached_property
    def vram_high_bytes(self) -> int:
        """The most that was used of the device; 0 where nothing is known of it."""
        return max((max(each.vram_bytes, 0) for each in self._bins), default=0)

    def columns(self, count: int, span_ns: int) -> list[Column | None]:
        """Cut 0..span_ns, both inclusive, into equal columns.

        A column without a reading holds the last one before it; None before the first and after the last reading. A
        bin lies where its last reading lies, so an edge between columns is off by a bin's width at most.

        Args:
            count: how many columns.
            span_ns: what they stand for together.
        """
        times = [each.last[0] for each in self._bins]
        columns: list[Column | None] = []
        held: Column | None = None
        begin = 0
        for number in range(1, count + 1):
            end = bisect.bisect_left(times, _edge_ns(number, count, span_ns), begin)
            if end > begin:
                columns.append(_column(self._bins[begin:end], held))
                held = _held(self._bins[begin:end], held)
            else:
                columns.append(held if begin < len(times) else None)
            begin = end
        return columns


class Timeline:
    """Readings in a fixed number of bins, whose width doubles when the run outgrows them.

    Adding is O(1), and drawing costs the same after a second and after an hour. One thread adds and freezes.
    """

    def __init__(self, bins: int = 4096) -> None:
        self._width_ns = _FIRST_WIDTH_NS
        self._bins: list[_Bin | None] = [None] * bins

    def add(
        self,
        t_ns: int,
        heap_bytes: int,
        file_bytes: int,
        pinned_bytes: int,
        vram_bytes: int | None = None,
        undivided_bytes: int = 0,
    ) -> None:
        """Add a reading; late ones find their place.

        Args:
            t_ns: since the load began; a reading from before is none of it and left out.
            heap_bytes: above the baseline, as the other pools; below it counts as at it.
            file_bytes: resident pages of mapped files.
            pinned_bytes: page-locked and shared memory.
            vram_bytes: memory of the device; None if this reading does not tell.
            undivided_bytes: all that is resident, where the system tells no pools.
        """
        if t_ns < 0:
            return
        while t_ns >= self._width_ns * len(self._bins):
            self._double()
        heap, file, pinned = max(heap_bytes, 0), max(file_bytes, 0), max(pinned_bytes, 0)
        undivided = max(undivided_bytes, 0)
        total = heap + file + pinned + undivided
        vram = _NO_VRAM if vram_bytes is None else (t_ns, vram_bytes)
        pools = (heap, file, pinned, undivided)
        reading = _Bin((t_ns, total, *pools), (total, *pools), -total, vram, vram[1])
        index = t_ns // self._width_ns
        before = self._bins[index]
        self._bins[index] = reading if before is None else _merged(before, reading)

    def frozen(self) -> Series:
        """Everything up to now."""
        return Series(tuple(filter(None, self._bins)))

    def _double(self) -> None:
        bins = self._bins
        halves = zip(bins[::2], [*bins[1::2], None], strict=False)  # an odd last bin merges with nothing
        merged = [_merged(one, other) if one and other else one or other for one, other in halves]
        self._bins = merged + [None] * (len(bins) - len(merged))
        self._width_ns *= 2


def _edge_ns(number: int, count: int, span_ns: int) -> int:
    """The first nanosecond behind a column; the last column includes the end of the span."""
    return span_ns + 1 if number == count else -(-number * span_ns // count)


def _column(bins: Sequence[_Bin], before: Column | None) -> Column:
    _, heap, file, pinned, undivided = max(map(attrgetter("peak"), bins))
    low = -max(map(attrgetter("minus_low_bytes"), bins))
    return Column(heap, file, pinned, low, _vram(max(map(attrgetter("vram_bytes"), bins)), before), undivided)


def _held(bins: Sequence[_Bin], before: Column | None) -> Column:
    """What the columns show that follow these bins and have no reading."""
    _, total, heap, file, pinned, undivided = bins[-1].last
    _, vram = max(map(attrgetter("vram_last"), bins))
    return Column(heap, file, pinned, total, _vram(vram, before), undivided)


def _vram(nbytes: int, before: Column | None) -> int | None:
    if nbytes < 0:
        return before.vram_bytes if before else None
    return nbytes
