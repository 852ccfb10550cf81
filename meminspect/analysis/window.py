"""The stretch of a run that its peak is taken from, and the peaks in it: from the baseline to *resident*.

The total is the kernel's high-water mark, reset at the baseline and read before every later reset: exact to what the
kernel's counters resolve, and a highest reading only where the kernel lets nobody reset it. A pool has no mark of its
own; its peak is the highest reading, from inside the worker and from outside, and its bracket says how much higher it
may have been. Where the total sets a new mark between two readings, the pool can have taken all of it but what the
other pools held; where it sets none, a pool is taken to lie between its readings.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import EventKind, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.capture.records import Event, Sample

__all__ = ["RESOLUTION_BYTES", "Moment", "PoolPeaks", "Window", "window"]

RESOLUTION_BYTES: Final = 1 << 20
"""What the kernel can tell from nothing: a process's counters lag by up to some 256 KiB for each processor."""


class Moment(NamedTuple):
    """One reading of the worker's memory."""

    t_ns: int
    reading: Reading
    marked: bool = True  # whether the mark was read, too; else what was resident stands for it


class PoolPeaks(NamedTuple):
    """Bytes above the baseline by pool."""

    heap_bytes: int
    file_bytes: int
    pinned_bytes: int


@dataclass(frozen=True)
class Window:
    """Baseline, end and every reading between them, in order of time; the first is the baseline."""

    baseline: Moment
    end_ns: int
    moments: tuple[Moment, ...]
    marks: tuple[Moment, ...]  # those of them that the peak of the total is taken from
    exact: bool = True  # whether these hold every peak of the total, and not only its highest reading

    @functools.cached_property
    def peak_rss_bytes(self) -> int:
        """The peak of the process above the baseline; exact where `exact` says so."""
        return self._highest_mark - self.baseline.reading.rss_bytes

    @functools.cached_property
    def peak(self) -> Moment:
        """The first reading that tells of the peak, which lies between the reading before it and it.

        What comes later and is higher by less than the kernel's counters resolve is no other peak.
        """
        return next(
            moment for moment in self.marks if moment.reading.high_water_bytes >= self._highest_mark - RESOLUTION_BYTES
        )

    @functools.cached_property
    def highest(self) -> Moment:
        """The first reading with the highest mark of all."""
        return next(moment for moment in self.marks if moment.reading.high_water_bytes == self._highest_mark)

    @functools.cached_property
    def _highest_mark(self) -> int:
        return max(moment.reading.high_water_bytes for moment in self.marks)

    def peaks(self) -> PoolPeaks:
        """The highest readings of the pools."""
        return PoolPeaks(
            *(max(moment.reading[pool] for moment in self.moments) - self.baseline.reading[pool] for pool in range(3))
        )

    def brackets(self) -> PoolPeaks:
        """How much higher each pool's true peak may lie."""
        highest = [max(moment.reading[pool] for moment in self.moments) for pool in range(3)]
        beyond = [0, 0, 0]
        last_mark = seen_rss = 0  # the mark when it was last read, and the most that was resident since
        least = [0, 0, 0]  # of each pool since then
        for moment in self.moments:
            reading = moment.reading
            mark, pools = reading.high_water_bytes, reading[:3]
            seen_rss = max(seen_rss, reading.rss_bytes)
            least = [min(*both) for both in zip(least, pools, strict=True)]
            if not moment.marked:
                continue
            # An old mark, or one that is no higher than what was read, was not set since the last one was read.
            if moment is not self.baseline and mark > seen_rss and mark != last_mark:
                for pool in range(3):
                    beyond[pool] = max(beyond[pool], mark - (sum(least) - least[pool]) - highest[pool])
            last_mark, seen_rss, least = mark, reading.rss_bytes, list(pools)
        return PoolPeaks(*beyond)


def window(events: Sequence[Event], samples: Sequence[Sample], *, marks_reset: bool = True) -> Window | None:
    """Cut the window out of a capture; None when the run never reached its baseline.

    The worker reads its mark before every reset, so that its own readings, which stand in one order with the events,
    hold every peak. Samples tell of the total only where the worker died before it could, or may not reset.

    Args:
        events: the run's events.
        samples: its samples.
        marks_reset: whether the kernel let the mark be reset at the baseline. If not, a mark that is no higher than it
            was then is not of the window, and the peak is that of the readings.
    """
    baseline = _named(events, "baseline")
    if baseline is None or baseline.reading is None:
        return None
    end = _named(events, "resident")
    end_ns = max(events[-1].t_ns, samples[-1].t_ns if samples else 0) if end is None else end.t_ns
    old_mark = 0 if marks_reset else baseline.reading.high_water_bytes
    start = Moment(baseline.t_ns, baseline.reading._replace(high_water_bytes=baseline.reading.rss_bytes))
    inside = [
        _moment(event.t_ns, event.reading, old_mark)
        for event in events
        if event.reading is not None and baseline.t_ns < event.t_ns <= end_ns
    ]
    sampled = [
        _moment(sample.t_ns, Reading(*sample[1:4], sample.high_water_bytes or 0), old_mark)
        for sample in samples
        if baseline.t_ns < sample.t_ns <= end_ns
    ]
    moments = (start, *sorted([*inside, *sampled], key=lambda moment: moment.t_ns))
    exact = marks_reset and end is not None  # the worker's own readings have every peak
    return Window(start, end_ns, moments, (start, *inside) if exact else moments, exact)


def _moment(t_ns: int, reading: Reading, old_mark: int) -> Moment:
    marked = reading.high_water_bytes > old_mark
    if not marked:
        reading = reading._replace(high_water_bytes=reading.rss_bytes)
    return Moment(t_ns, reading, marked)


def samples_between(samples: Sequence[Sample], start_ns: int, end_ns: int) -> Sequence[Sample]:
    """The samples of a stretch of time, both ends included."""
    times = [sample.t_ns for sample in samples]
    return samples[bisect.bisect_left(times, start_ns) : bisect.bisect_right(times, end_ns)]


def _named(events: Sequence[Event], name: str) -> Event | None:
    return next((event for event in events if event.kind is EventKind.READING and event.name == name), None)
