from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from run_events import BASE, MIB, MS, baseline, named, phase, reading, resident, sample, total

from meminspect.analysis.window import Window, samples_between, window
from meminspect.capture.records import Event, EventKind, Sample


def cut(events: list[Event], samples: list[Sample] | None = None) -> Window:
    found = window(events, samples or [])
    assert found is not None
    return found


def test_a_run_that_never_reached_its_baseline_has_no_window() -> None:
    assert window([], []) is None
    assert window([phase(1, "import", reading())], [sample(1, reading())]) is None


def test_the_peak_is_the_highest_mark_above_the_baselines_rss() -> None:
    window = cut(
        [
            baseline(10),
            phase(11, "read", reading()),
            named(12, "any", reading(heap=100 * MIB, mark=700 * MIB)),
            named(13, "any", reading(heap=50 * MIB, mark=300 * MIB)),
            resident(14, reading(heap=50 * MIB, mark=60 * MIB)),
        ]
    )
    assert window.peak_rss_bytes == 700 * MIB
    assert window.peak.t_ns == 12 * MS


def test_the_peak_is_where_it_was_first_seen_and_as_high_as_it_was_ever_seen() -> None:
    # given a plateau that later readings see a page higher
    page = 4096
    marks = [500 * MIB, 700 * MIB, 700 * MIB + page, 700 * MIB + 2 * page]
    events = [named(11 + index, "any", reading(heap=mark)) for index, mark in enumerate(marks)]
    window = cut([baseline(10), *events, resident(20, reading(heap=700 * MIB))])
    assert window.peak.t_ns == 12 * MS
    assert window.peak_rss_bytes == 700 * MIB + 2 * page


def test_what_is_billed_is_what_was_there_as_long_as_it_all_stayed() -> None:
    # given pages that were there before events could tell whose, and then that somebody lets go of them
    marks = [500 * MIB, 700 * MIB, 700 * MIB - 4096, 600 * MIB, 700 * MIB - 4096]
    events = [named(11 + index, "any", reading(file=mark)) for index, mark in enumerate(marks)]
    stayed = cut([baseline(10), *events, resident(20, reading(heap=0))])
    assert (stayed.billed.t_ns, stayed.fallen_bytes) == (13 * MS, None)
    # and a mark that nobody has seen in memory
    events[1] = named(12, "any", reading(heap=400 * MIB, mark=700 * MIB))
    unseen = cut([baseline(10), *events, resident(20, reading(heap=0))])
    assert (unseen.billed.t_ns, unseen.fallen_bytes) == (12 * MS, 300 * MIB)


def test_of_memory_that_no_file_backs_the_first_of_the_highest_readings_is_billed() -> None:
    # given what the allocator keeps of a tensor that is released at the peak
    marks = [700 * MIB, 700 * MIB + 4096, 700 * MIB]  # a page more is no other peak
    events = [named(11 + index, "any", reading(heap=mark)) for index, mark in enumerate(marks)]
    kept = cut([baseline(10), *events, resident(20, reading(heap=700 * MIB))])
    assert (kept.billed.t_ns, kept.fallen_bytes) == (11 * MS, 0)


def test_marks_from_before_the_baseline_and_after_resident_do_not_count() -> None:
    events = [
        named(5, "early", reading(heap=9000)),
        baseline(10, mark_before=5000),
        resident(20, reading(heap=100, mark=150)),
        named(30, "verified", reading(heap=8000)),
    ]
    samples = [sample(4, reading(heap=9000)), sample(15, reading(heap=90)), sample(25, reading(heap=8000))]
    window = cut(events, samples)
    assert window.peak_rss_bytes == 150
    assert window.peaks() == (100, 0, 0)
    assert window.end_ns == 20 * MS


def test_a_run_that_became_resident_takes_its_marks_from_the_worker_alone() -> None:
    """A sample's time and its reading may lie apart, and the worker reads its mark before every reset."""
    events = [baseline(10, mark_before=5000), resident(20, reading(heap=7))]
    window = cut(events, [sample(10.1, reading(heap=3, mark=5000)), sample(15, reading(heap=9))])
    assert window.peak_rss_bytes == 7
    assert window.peaks().heap_bytes == 9


def test_the_total_is_exact_where_its_mark_was_reset_at_the_baseline_and_read_to_the_end() -> None:
    whole, killed = [baseline(10), resident(20, reading())], [baseline(10), phase(11, "read", reading())]
    assert cut(whole).exact
    assert not cut(killed, [sample(12, reading())]).exact
    assert not window(whole, [], marks_reset=False).exact


def test_where_the_kernel_resets_no_marks_an_old_one_is_not_of_the_window() -> None:
    events = [
        baseline(10, mark_before=5000),
        named(15, "read", reading(heap=300, mark=5000)),
        resident(20, reading(heap=7, mark=5000)),
    ]
    assert window(events, [], marks_reset=False).peak_rss_bytes == 300
    events[1] = named(15, "read", reading(heap=300, mark=6000))
    assert window(events, [], marks_reset=False).peak_rss_bytes == 6000


def test_a_run_that_died_is_measured_up_to_its_last_sign_of_life() -> None:
    events = [baseline(10), phase(11, "read", reading())]
    window = cut(events, [sample(12, reading(heap=40)), sample(30, reading(heap=4000))])
    assert window.end_ns == 30 * MS
    assert window.peak_rss_bytes == 4000
    assert cut([*events, phase(50, "copy")], []).end_ns == 50 * MS


def test_pools_peak_each_at_their_own_moment_and_never_below_the_baseline() -> None:
    window = cut(
        [
            baseline(),
            named(11, "any", reading(heap=100, file=-200)),
            named(12, "any", reading(heap=20, file=300, pinned=5)),
            resident(13, reading(heap=20, file=-300, mark=330)),
        ]
    )
    assert window.peaks() == (100, 300, 5)
    assert cut([baseline(), resident(11, reading(heap=-50, file=-9, mark=0))]).peaks() == (0, 0, 0)


def test_a_total_below_the_baseline_is_a_peak_of_zero() -> None:
    assert cut([baseline(), resident(11, reading(heap=-50, mark=-20))]).peak_rss_bytes == 0


def test_pools_are_exact_where_the_total_set_no_mark_between_two_readings() -> None:
    window = cut([
        baseline(), named(11, "any", reading(heap=100)), resident(12, reading(heap=100, file=50)),
    ])  # fmt: skip
    assert window.brackets() == (0, 0, 0)


def test_a_mark_between_two_readings_is_how_much_higher_a_pool_may_have_been() -> None:
    # given a transient of 500 between two readings that both show 100 of heap and none or 30 of file
    window = cut(
        [
            baseline(),
            named(11, "any", reading(heap=100)),
            resident(12, reading(heap=100, file=30, mark=600)),
        ]
    )
    # then heap may have taken all of it, at the moment when there was no file
    assert window.peak_rss_bytes == 600
    assert window.peaks() == (100, 30, 0)
    assert window.brackets() == (500, 600 - 100 - 30, 600 - 100)


def test_an_old_mark_says_nothing_of_later_moments() -> None:
    window = cut(
        [
            baseline(),
            named(11, "any", reading(heap=500)),
            named(12, "any", reading(heap=10, mark=500)),
            resident(13, reading(heap=10, file=20, mark=500)),
        ]
    )
    assert window.brackets() == (0, 0, 0)


def test_a_sample_without_a_mark_makes_no_news_of_the_mark_that_is_read_after_it() -> None:
    # given a mark that was read and left, memory that went, and a sample that did not ask for the mark
    low = Sample(12 * MS, BASE.heap_bytes + 10, BASE.file_bytes, BASE.pinned_bytes, 0)
    events = [
        baseline(), named(11, "any", reading(heap=500, file=400, mark=900)), resident(13, reading(heap=10, mark=900)),
    ]  # fmt: skip
    assert cut(events, [low]).brackets() == (0, 0, 0)
    # but where the mark is news, the sample tells how little of the other pools there may have been
    news = [*events[:2], resident(13, reading(heap=10, file=400, mark=950))]
    assert cut(news, [low]).brackets() == (950 - 500, 950 - 10 - 400, 950 - 10)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.booleans()), min_size=2, max_size=30
    )
)
def test_the_total_is_exact_however_seldom_one_reads_and_resets(trace: list[tuple[int, int, int, bool]]) -> None:
    """The kernel's book-keeping by hand: a reading at some moments only, each of which resets the mark."""
    events, mark, true_peak = [baseline(0)], 0, 0
    for index, (heap, file, pinned, is_read) in enumerate(trace, 1):
        total = heap + file + pinned
        true_peak, mark = max(true_peak, total), max(mark, total)
        if is_read or index == len(trace):
            events.append(named(index, "any", reading(heap, file, pinned, mark)))
            mark = total
    events.append(resident(len(trace) + 1, reading(*trace[-1][:3], mark)))
    window = cut(events)
    assert window.peak_rss_bytes == true_peak
    for peak, bracket in zip(window.peaks(), window.brackets(), strict=True):
        assert 0 <= peak <= peak + bracket <= true_peak


def test_the_baselines_own_mark_is_its_rss() -> None:
    start = cut([baseline(mark_before=5000)]).baseline
    assert (start.held, start.mark_bytes) == (BASE.resident, 1510)


# --- where the system tells only the total, and that only from outside

UNSEEN = [Event(10 * MS, EventKind.READING, name="baseline"), Event(20 * MS, EventKind.READING, name="resident")]
TOTALS = [total(t_ms, mib * MIB) for t_ms, mib in ((5, 900), (9, 1000), (12, 4000), (18, 3000), (25, 9000))]


def test_a_worker_that_cannot_see_itself_has_its_window_from_the_samples() -> None:
    window = cut(UNSEEN, TOTALS)
    assert window.baseline.held.rss_bytes == 1000 * MIB
    assert (window.peak_rss_bytes, window.peak.t_ns) == (3000 * MIB, 12 * MS)
    assert window.peaks() == window.brackets() == (None, None, None)
    assert not window.exact
    assert window.total_bracket() is None


def test_a_mark_of_its_life_that_the_load_did_not_pass_bounds_the_peak_from_above() -> None:
    found = window(UNSEEN, TOTALS, own_marks=(4700 * MIB, 4700 * MIB))
    assert found is not None
    assert (found.peak_rss_bytes, found.total_bracket()) == (3000 * MIB, 700 * MIB)


def test_a_mark_that_rose_in_the_load_is_its_peak_whenever_that_was() -> None:
    high = 4002 * MIB
    found = window(UNSEEN, TOTALS, own_marks=(1000 * MIB, high))
    assert found is not None
    assert found.peak_rss_bytes == high - 1000 * MIB
    assert not found.peak.dated
    assert found.total_bracket() is None  # 0 would call it exact


def test_without_a_sample_there_is_no_such_window_and_without_an_early_one_it_begins_with_the_first() -> None:
    assert window(UNSEEN, []) is None
    assert window(UNSEEN, TOTALS[-1:]) is None
    assert cut(UNSEEN, TOTALS[2:]).baseline.held.rss_bytes == 4000 * MIB


def test_of_a_worker_that_died_nobody_knows_how_high_it_went() -> None:
    found = window(UNSEEN[:1], TOTALS, own_marks=(4700 * MIB, None))
    assert found is not None
    assert (found.peak_rss_bytes, found.total_bracket()) == (8000 * MIB, None)


def test_samples_between_two_times_include_both_ends() -> None:
    samples = [sample(t, reading()) for t in (1, 2, 3, 4)]
    assert samples_between(samples, 2 * MS, 3 * MS) == samples[1:3]
    assert samples_between(samples, 5 * MS, 9 * MS) == []
    assert samples_between([], 0, 9) == []
