from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.reduction import Column, Series, Timeline

if TYPE_CHECKING:
    import random

BINS = 16
US = 1 << 10  # about a microsecond: the width of a bin at first
SPAN_NS = BINS << 18  # so long that a timeline of 16 bins has doubled their width many times


class Reading(NamedTuple):
    t_ns: int
    heap: int
    file: int = 0
    pinned: int = 0
    vram: int | None = None

    @property
    def total(self) -> int:
        return self.heap + self.file + self.pinned


def series(*readings: Reading, bins: int = BINS) -> Series:
    timeline = Timeline(bins)
    for reading in readings:
        timeline.add(*reading)
    return timeline.frozen()


def heap(nbytes: int, low: int | None = None, vram: int | None = None) -> Column:
    return Column(nbytes, 0, 0, nbytes if low is None else low, vram)


some_bytes = st.integers(0, 1 << 40)
readings = st.lists(
    st.builds(
        Reading, st.integers(0, SPAN_NS - 1), some_bytes, some_bytes, some_bytes, st.none() | some_bytes
    ),
    min_size=1,
    max_size=80,
)  # fmt: skip


def expected(found: list[Reading], number: int, count: int) -> tuple[int, int] | None:
    """Highest and lowest total of a column, by looking at every reading there ever was."""
    begin, end = number * SPAN_NS // count, (number + 1) * SPAN_NS // count
    inside = [reading.total for reading in found if begin <= reading.t_ns < end]
    if inside:
        return max(inside), min(inside)
    before = [reading for reading in found if reading.t_ns < begin]
    if not before or len(before) == len(found):
        return None
    last = max(before, key=lambda reading: (reading.t_ns, reading.total))
    return last.total, last.total


@given(readings, st.sampled_from([1, 2, 4, 8, 16]))
def test_every_column_knows_its_highest_and_lowest_reading(found: list[Reading], count: int) -> None:
    columns = series(*found).columns(count, SPAN_NS)

    assert [column and (column.total_bytes, column.low_bytes) for column in columns] == [
        expected(found, number, count) for number in range(count)
    ]


@given(readings, st.integers(1, 200), st.integers(0, SPAN_NS))
def test_no_reading_is_lost_at_whatever_width(found: list[Reading], count: int, more_ns: int) -> None:
    drawn = series(*found)
    columns = [column for column in drawn.columns(count, drawn.end_ns + more_ns) if column]

    assert max(column.total_bytes for column in columns) == max(reading.total for reading in found)
    assert min(column.low_bytes for column in columns) == min(reading.total for reading in found)
    device = [reading.vram for reading in found if reading.vram is not None]
    assert max((column.vram_bytes for column in columns if column.vram_bytes is not None), default=None) == max(
        device, default=None
    )


@given(readings, st.integers(1, 200))
def test_the_pools_of_a_column_were_seen_together(found: list[Reading], count: int) -> None:
    drawn = series(*found)
    seen = {(reading.heap, reading.file, reading.pinned) for reading in found}

    assert {column[:3] for column in drawn.columns(count, drawn.end_ns) if column} <= seen


@given(readings, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(found: list[Reading], shuffler: random.Random) -> None:
    late = shuffler.sample(found, len(found))

    assert series(*late) == series(*found)


@given(readings)
def test_doubling_the_bins_width_changes_no_picture_as_coarse_as_they(found: list[Reading]) -> None:
    assert series(*found, bins=16).columns(8, SPAN_NS) == series(*found, bins=4096).columns(8, SPAN_NS)


def test_nothing_is_drawn_of_nothing() -> None:
    empty = Timeline().frozen()

    assert empty == Series()
    assert empty.end_ns == 0
    assert empty.columns(3, 100) == [None, None, None]
    assert empty.columns(3, 0) == [None, None, None]
    assert empty.columns(0, 100) == []


def test_a_column_without_a_reading_holds_the_last_one_before_it() -> None:
    # given readings in the second and fifth of eight columns
    drawn = series(Reading(4 * US, 1), Reading(5 * US, 7), Reading(6 * US, 5), Reading(16 * US, 2), bins=64)

    # then it is a step from the last of them, nothing before the first and nothing after the last
    assert drawn.columns(8, 32 * US) == [None, heap(7, low=1), heap(5), heap(5), heap(2), None, None, None]


def test_a_device_that_is_read_less_often_holds_too() -> None:
    drawn = series(
        Reading(0, 1), Reading(2 * US, 2, vram=90), Reading(3 * US, 2, vram=70), Reading(4 * US, 3), Reading(6 * US, 4)
    )

    assert drawn.columns(4, 8 * US) == [heap(1), heap(2, vram=90), heap(3, vram=70), heap(4, vram=70)]


def test_the_end_of_the_span_belongs_to_the_last_column() -> None:
    drawn = series(Reading(0, 1), Reading(4 * US, 9))

    assert drawn.end_ns == 4 * US
    assert drawn.columns(2, 4 * US) == [heap(1), heap(9)]


def test_a_span_that_ends_before_the_run_shows_what_lies_in_it() -> None:
    drawn = series(Reading(0, 1), Reading(2 * US, 2), Reading(9 * US, 9))

    assert drawn.columns(2, 6 * US) == [heap(2, low=1), heap(2)]


def test_a_bin_wider_than_a_column_lies_where_its_last_reading_lies() -> None:
    drawn = series(Reading(0, 1), Reading(20 * US, 5), Reading(25 * US, 2), bins=2)

    assert drawn.columns(8, 32 * US) == [*[heap(1)] * 6, heap(5, low=2), None]


def test_below_the_baseline_is_the_baseline() -> None:
    assert series(Reading(0, 5, -3, -1)).columns(1, 1) == [heap(5)]


def test_what_was_read_before_the_load_is_left_out() -> None:
    assert series(Reading(-1, 5)) == Series()


def test_what_is_frozen_stays_as_it_is() -> None:
    timeline = Timeline()
    timeline.add(0, 1, 0, 0)
    frozen = timeline.frozen()
    timeline.add(0, 9, 0, 0)

    assert frozen.columns(1, 1) == [heap(1)]


def test_a_long_run_takes_no_more_memory_than_a_short_one() -> None:
    timeline = Timeline(bins=7)
    for second in range(5000):
        timeline.add(second * 10**9, second, 0, 0)

    columns = timeline.frozen().columns(1000, 5000 * 10**9)
    assert len(set(columns)) <= 2 * 7 + 1  # a peak and what is held for each bin, and nothing after the last
    assert max(column.total_bytes for column in columns if column) == 4999
