"""What width and height of a run's picture stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.follow import RunView
from meminspect.analysis.reduction import Series, Timeline
from meminspect.capture.records import Reading
from meminspect.renderables.timeline import axis_for
from meminspect.tui.widgets.run_chart import Scale, scale_for

S, GIB = 1_000_000_000, 1 << 30
BASE = Reading(1000, 0, 0, 1000)


def going(load_ns: int | None, **changes: Any) -> RunView:
    return RunView(Path("x"), load_ns=load_ns, **changes)


def frozen(vram_bytes: int | None) -> Series:
    timeline = Timeline()
    timeline.add(0, GIB, 0, 0, vram_bytes)
    return timeline.frozen()


def ended(load_ns: int | None) -> RunView:
    return going(load_ns, result={})


def resident(load_ns: int) -> RunView:
    return going(load_ns, resident=True)


def span_s(*views: RunView) -> float:
    return scale_for(views).span_ns / S


def test_before_anything_has_begun_a_second_is_shown_of_nothing() -> None:
    assert scale_for([]) == scale_for([going(None)]) == scale_for([going(0)]) == Scale(S, 1)
    assert scale_for([ended(None)]).span_ns == S, "one that never began its load"


def test_a_device_s_lane_is_as_high_for_all_that_are_compared() -> None:
    used = [going(S, series=frozen(vram_bytes)) for vram_bytes in (GIB, 3 * GIB, None)]
    assert scale_for(used).vram_bytes == 3 * GIB


def test_a_run_that_is_over_fills_the_width_exactly() -> None:
    assert span_s(ended(int(1.234 * S))) == 1.234
    assert span_s(resident(int(1.234 * S))) == 1.234


@pytest.mark.parametrize(
    ("load_s", "shown_s"),
    [(0.9, 1), (1, 1), (1.0001, 1.5), (1.5, 1.5), (1.6, 2), (2.5, 3), (6.1, 8), (8.5, 10), (10.5, 15), (61, 80)],
)
def test_a_run_that_goes_on_has_room_to_do_so_and_its_axis_moves_by_jumps(load_s: float, shown_s: float) -> None:
    assert span_s(going(int(load_s * S))) == shown_s


@given(st.integers(1, 10**15))
def test_the_room_to_go_on_is_never_more_than_half_of_what_has_been(load_ns: int) -> None:
    span_ns = scale_for([going(load_ns)]).span_ns
    assert load_ns <= span_ns <= max(2, load_ns * 3 // 2 + 1)


def test_runs_that_are_compared_have_one_scale_that_holds_them_all() -> None:
    assert span_s(ended(5 * S), going(int(1.1 * S))) == 5
    assert span_s(ended(5 * S), going(int(5.1 * S))) == 6
    assert span_s(ended(5 * S), resident(7 * S), going(None)) == 7


def test_the_height_holds_every_peak_measured_and_predicted() -> None:
    measured = going(1, peak_bytes=4000)
    predicted = going(1, facts={"theory": {"peak_rss_bytes": 5000}})
    assert scale_for([measured]).axis_bytes == axis_for([4000], None)
    assert scale_for([measured, predicted]).axis_bytes == axis_for([5000], None) > 5000


def test_the_height_holds_the_lowest_ceiling_where_it_is_near() -> None:
    def limited(limit_bytes: int) -> RunView:
        return going(1, peak_bytes=4000, baseline=BASE, facts={"spec": {"limit_bytes": limit_bytes}})

    assert scale_for([limited(5000 + 1000)]).axis_bytes == axis_for([4000], 5000) > 5000
    assert scale_for([limited(10**9), limited(5000 + 1000)]).axis_bytes == axis_for([4000], 5000)
    assert scale_for([limited(10**9)]).axis_bytes == axis_for([4000], None), "far away, it would squash the data"


@pytest.mark.parametrize(("theory", "seen"), [(16 * S, True), (17 * S, False)])
def test_a_run_that_died_far_below_what_it_would_have_needed_fills_its_picture(theory: int, seen: bool) -> None:
    changes = {"peak_bytes": 10 * S, "facts": {"theory": {"peak_rss_bytes": theory}}, "baseline": BASE}
    killed = going(S, outcome={"outcome": "oom_killed"}, result={}, **changes)
    assert (scale_for([killed]).axis_bytes >= theory) is seen
    assert scale_for([killed]).axis_bytes >= 10 * S
    assert scale_for([going(S, **changes)]).axis_bytes >= theory, "while it goes on it may still get there"
