"""The stretch of a run that its peak is taken from, and the peaks in it: from the baseline to *resident*.

The total is the kernel's high-water mark, reset at the baseline and read before every later reset: exact to what the
kernel's counters resolve, and a highest reading only where the kernel lets nobody reset it. A pool has no mark of its
own; its peak is the highest reading, from inside the worker and from outside, and its bracket says how much higher it
may have been. Where the total sets a new mark between two readings, the pool can have taken all of it but what the
other pools held; where it sets none, a pool is taken to lie between its readings.

Where the system tells no pools, the worker knows of its memory no more than its largest RSS ever. Then all is taken
from the samples, the baseline included; if that mark has risen since the baseline, it is the peak, and if not, the
peak can lie no higher than it.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meminspect.capture.records import Event, Resident, Sample

__all__ = ["RESOLUTION_BYTES", "Moment", "PoolPeaks", "Window", "window"]

RESOLUTION_BYTES: Final = 1 << 20
"""What the kernel can tell from nothing: a process's counters lag by up to some 256 KiB for each processor."""


class Moment(NamedTuple):
    """One reading of the worker's memory."""

    t_ns: int
    held: Resident
    mark_bytes: int  # the high-water mark
    marked: bool = True  # whether that was read, too; else what was resident stands for it
    dated: bool = True  # whether it tells that the mark was set since the reading before, or only some time ago


class PoolPeaks(NamedTuple):
    """Bytes above the baseline by pool; None where the system tells no pools."""

    heap_bytes: int | None
    file_bytes: int | None
    pinned_bytes: int | None


_NO_POOLS: Final = PoolPeaks(None, None, None)


@dataclass(frozen=True)
class Window:
    """Baseline, end and every reading between them, in order of time; the first is the baseline."""

    baseline: Moment
    end_ns: int
    moments: tuple[Moment, ...]
    marks: tuple[Moment, ...]  # those of them that the peak of the total is taken from
    exact: bool = True  # whether these hold every peak of the total, and not only its highest reading
    most_bytes: int | None = None  # what the process has never exceeded, where that is all that is known of its peak

    @functools.cached_property
    def peak_rss_bytes(self) -> int:
        """The peak of the process above the baseline; exact where `exact` says so."""
        return self._highest_mark - self.baseline.held.rss_bytes

    @functools.cached_property
    def peak(self) -> Moment:
        """The first reading that tells of the peak, which lies between the reading before it and it.

        What comes later and is higher by less than the kernel's counters resolve is no other peak.
        """
        return next(moment for moment in self.marks if moment.mark_bytes >= self._highest_mark - RESOLUTION_BYTES)

    @functools.cached_property
    def highest(self) -> Moment:
        """The first reading with the highest mark of all."""
        return next(moment for moment in self.marks if moment.mark_bytes == self._highest_mark)

    @functools.cached_property
    def billed(self) -> Moment:
        """The peak; with files' pages, the last after the highest until which all that stayed but for a hundredth.

        The kernel may map a file's pages before anybody touches them: what they are is told by what comes then.
        """
        if not self._has_file_pages:
            return self.peak
        after = itertools.dropwhile(lambda moment: moment is not self.highest, self.marks)
        least_bytes = self._highest_mark - self._slack_bytes
        still = list(itertools.takewhile(lambda moment: moment.held.rss_bytes >= least_bytes, after))
        return still[-1] if still else self.highest

    @property
    def fallen_bytes(self) -> int | None:
        """By how much less was resident when the peak's mark was read; None if the bill is of another moment."""
        billed = self.billed
        return billed.mark_bytes - billed.held.rss_bytes if billed in (self.peak, self.highest) else None

    @property
    def _has_file_pages(self) -> bool:
        """Whether pages of files were a part of the peak, or may have been."""
        before, then = self.baseline.held.file_bytes, self.highest.held.file_bytes
        return before is None or then is None or then - before > self._slack_bytes

    @property
    def _slack_bytes(self) -> int:
        return max(RESOLUTION_BYTES, self.peak_rss_bytes // 100)

    @functools.cached_property
    def _highest_mark(self) -> int:
        return max(moment.mark_bytes for moment in self.marks)

    def peaks(self) -> PoolPeaks:
        """The highest readings of the pools."""
        if not _pools(self.baseline):
            return _NO_POOLS
        base, pools = _pools(self.baseline), [_pools(moment) for moment in self.moments]
        return PoolPeaks(*(max(column) - least for column, least in zip(zip(*pools, strict=True), base, strict=True)))

    def most_heap_bytes(self) -> int | None:
        """The most heap that there can have been above the baseline; None where the system tells no pools."""
        highest, beyond = self.peaks().heap_bytes, self.brackets().heap_bytes
        return None if highest is None or beyond is None else highest + beyond

    def total_bracket(self) -> int | None:
        """How much higher the true peak of the total may lie; None where nobody knows."""
        if self.exact:
            return 0
        if self.most_bytes is None or self.most_bytes <= self._highest_mark:
            return None  # not 0, which would call exact what stands on a sampled baseline
        return self.most_bytes - self._highest_mark

    def brackets(self) -> PoolPeaks:
        """How much higher each pool's true peak may lie."""
        if not _pools(self.baseline):
            return _NO_POOLS
        highest = [max(column) for column in zip(*map(_pools, self.moments), strict=True)]
        beyond = [0, 0, 0]
        last_mark = seen_rss = 0  # the mark when it was last read, and the most that was resident since
        least = [0, 0, 0]  # of each pool since then
        for moment in self.moments:
            mark, pools, rss = moment.mark_bytes, _pools(moment), moment.held.rss_bytes
            seen_rss = max(seen_rss, rss)
            least = [min(*both) for both in zip(least, pools, strict=True)]
            if not moment.marked:
                continue
            # An old mark, or one that is no higher than what was read, was not set since the last one was read.
            if moment is not self.baseline and mark > seen_rss and mark != last_mark:
                for pool in range(3):
                    beyond[pool] = max(beyond[pool], mark - (sum(least) - least[pool]) - highest[pool])
            last_mark, seen_rss, least = mark, rss, list(pools)
        return PoolPeaks(*beyond)


def window(
    events: Sequence[Event],
    samples: Sequence[Sample],
    *,
    marks_reset: bool = True,
    untouched: bool = False,
    own_marks: tuple[int | None, int | None] = (None, None),
) -> Window | None:
    """Cut the window out of a capture; None when the run never reached its baseline.

    The worker reads its mark before every reset, so that its own readings, which stand in one order with the events,
    hold every peak. Samples tell of the total only where the worker died before it could, or may not reset.

    Args:
        events: the run's events.
        samples: its samples.
        marks_reset: whether the kernel let the mark be reset at the baseline. If not, a mark that is no higher than it
            was then is not of the window, and the peak is that of the readings.
        untouched: nobody was to reset it, and it counts for as exact where it has risen since then.
        own_marks: the worker's largest RSS ever at the baseline and at *resident*, where it knows no more.
    """
    baseline = _named(reversed(events), "baseline")  # the last: a script may set it anew
    if baseline is None:
        return None
    end = _named(events, "resident")
    end_ns = max(events[-1].t_ns, samples[-1].t_ns if samples else 0) if end is None else end.t_ns
    if baseline.reading is None:
        return _seen_from_outside(samples, baseline.t_ns, end_ns, own_marks if end is not None else (None, None))
    old_mark = 0 if marks_reset else baseline.reading.high_water_bytes
    start = Moment(baseline.t_ns, baseline.reading.resident, baseline.reading.rss_bytes)
    inside = [
        _moment(event.t_ns, event.reading.resident, event.reading.high_water_bytes, old_mark)
        for event in events
        if event.reading is not None and baseline.t_ns < event.t_ns <= end_ns
    ]
    sampled = [
        _moment(sample.t_ns, sample.resident, sample.high_water_bytes or 0, old_mark)
        for sample in samples
        if baseline.t_ns < sample.t_ns <= end_ns
    ]
    moments = (start, *sorted([*inside, *sampled], key=lambda moment: moment.t_ns))
    # The worker's own readings have every peak; unless it was reset, if the mark has risen since the baseline.
    at_end = None if end is None else end.reading
    risen = untouched and at_end is not None and at_end.high_water_bytes > old_mark
    exact = end is not None and (marks_reset or risen)
    return Window(start, end_ns, moments, (start, *inside) if exact else moments, exact)


def _moment(t_ns: int, held: Resident, mark_bytes: int, old_mark: int) -> Moment:
    marked = mark_bytes > old_mark
    return Moment(t_ns, held, mark_bytes if marked else held.rss_bytes, marked)


def _seen_from_outside(
    samples: Sequence[Sample], baseline_ns: int, end_ns: int, own_marks: tuple[int | None, int | None]
) -> Window | None:
    """The window of a worker that cannot see itself; None where nobody else saw it either."""
    seen = samples_between(samples, 0, end_ns)
    before = [sample for sample in seen if sample.t_ns <= baseline_ns] or seen[:1]
    if not before:
        return None
    start = Moment(baseline_ns, before[-1].resident, before[-1].resident.rss_bytes, False)
    inside = samples_between(seen, baseline_ns + 1, end_ns)
    moments = [start, *(Moment(one.t_ns, one.resident, one.resident.rss_bytes, False) for one in inside)]
    old_mark, mark = own_marks
    if mark is None or old_mark is None:
        return Window(start, end_ns, tuple(moments), tuple(moments), False)
    if mark > old_mark:  # of the window, but nobody knows when
        moments.append(Moment(end_ns, moments[-1].held, mark, dated=False))
    return Window(start, end_ns, tuple(moments), tuple(moments), False, mark if mark <= old_mark else None)


def _pools(moment: Moment) -> tuple[int, ...]:
    """Heap, file and pinned memory; empty where the system does not tell them apart."""
    return tuple(nbytes for nbytes in moment.held[1:] if nbytes is not None)


def samples_between(samples: Sequence[Sample], start_ns: int, end_ns: int) -> Sequence[Sample]:
    """The samples of a stretch of time, both ends included."""
    times = [sample.t_ns for sample in samples]
    return samples[bisect.bisect_left(times, start_ns) : bisect.bisect_right(times, end_ns)]


def _named(events: Iterable[Event], name: str) -> Event | None:
    return next((event for event in events if event.kind is EventKind.READING and event.name == name), None)
