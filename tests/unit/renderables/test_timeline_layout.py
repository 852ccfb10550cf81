"""What finds room in a picture of the timeline, and in what order it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from timeline_pictures import (
    MS,
    RAMP,
    frozen,
    lines,
    picture,
    series,
)

from meminspect.renderables.timeline import ASCII, UNICODE, Picture, axis_for, draw

if TYPE_CHECKING:
    from meminspect.renderables.timeline import Glyphs


def test_at_the_least_height_there_is_only_the_plot() -> None:
    assert lines(picture(series(RAMP), vram_note="VRAM: none"), (40, 3)) == [
        "GiB │──────── ceiling 35.00 theory 30.00",
        "    │▁▁▁▁▂▂▂▃▃▄▄▄▅▅▆▆▆▇▇███████████",
        "  0 └──────────┬──────────────┬─────────",
    ]


def test_names_of_phases_come_before_the_note() -> None:
    assert lines(picture(series(RAMP), vram_note="VRAM: none"), (40, 6)) == [
        "GiB │──────── ceiling 35.00 theory 30.00",
        " 20 ┤                     ▁▂▃▄▄▅▆▇█",
        "    │           ▁▂▃▄▄▅▆▇███████████",
        "    │▁▁▂▃▄▄▅▆▇█████████████████████",
        "  0 └──────────┬──────────────┬─────────",
        "     build     │ read         │ copy",
    ]


def test_the_note_comes_before_the_times() -> None:
    assert lines(picture(series(RAMP), vram_note="VRAM: none"), (40, 7)) == [
        "GiB │──────── ceiling 35.00 theory 30.00",
        " 20 ┤                     ▁▂▃▄▄▅▆▇█",
        "    │           ▁▂▃▄▄▅▆▇███████████",
        "    │▁▁▂▃▄▄▅▆▇█████████████████████",
        "  0 └──────────┬──────────────┬─────────",
        "     build     │ read         │ copy",
        "     VRAM: none",
    ]


def test_the_times_come_at_last() -> None:
    assert lines(picture(series(RAMP), vram_note="VRAM: none"), (40, 8)) == [
        "GiB │",
        "    │──────── ceiling 35.00 theory 30.00",
        " 20 ┤                     ▁▂▃▄▄▅▆▇█",
        "    │           ▁▂▃▄▄▅▆▇███████████",
        "    │▁▁▂▃▄▄▅▆▇█████████████████████",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
        "     VRAM: none",
    ]


def test_at_the_least_width_it_is_still_a_picture() -> None:
    assert lines(picture(series(RAMP), peak_ns=29 * MS + MS // 2), (20, 8)) == [
        "GiB │  ceiling 35.00",
        "    │────────────▾──",
        "    │··········▂▄▆··",
        " 20 ┤       ▃▅▇███",
        "    │   ▁▄▆███████",
        "    │▂▅▇██████████",
        "  0 └────┬─────┬────",
        "     bui…│ read│copy",
    ]


@pytest.mark.parametrize(
    ("peaks", "ceiling", "axis"),
    [
        ([], None, 1),
        ([], 160, 170),
        ([0], 160, 170),
        ([160, 32], None, 170),
        ([100, 32], 160, 170),  # near enough to be shown
        ([100, 32], 161, 106),  # too far: the data would be squashed
        ([160], 80, 170),
        ([160], 0, 170),
    ],
)
def test_the_axis_shows_all_peaks_and_a_ceiling_that_is_near(peaks: list[int], ceiling: int | None, axis: int) -> None:
    assert axis_for(peaks, ceiling) == axis


sizes = st.integers(0, 1 << 50)
moments = st.integers(0, 10**14)
pictures = st.builds(
    Picture,
    series=st.lists(st.tuples(moments, sizes, sizes, sizes, st.none() | sizes), max_size=20).map(frozen),
    span_ns=moments,
    axis_bytes=sizes,
    theory_bytes=st.none() | sizes,
    ceiling_bytes=st.none() | st.integers(-1, 1 << 50),
    phases=st.lists(st.tuples(st.integers(-5, 10**14), st.text(max_size=12)), max_size=8).map(
        lambda phases: tuple(sorted(phases))
    ),
    peak_ns=st.none() | moments,
    died_ns=st.none() | moments,
    vram_total_bytes=st.none() | sizes,
    vram_note=st.text(max_size=60),
    vram_theory=st.lists(st.integers(0, 1 << 40), max_size=9).map(tuple),
)


@given(pictures, st.integers(20, 220), st.integers(3, 60), st.sampled_from([ASCII, UNICODE]))
def test_every_picture_is_exactly_as_large_as_asked(shown: Picture, width: int, height: int, glyphs: Glyphs) -> None:
    drawn = draw(shown, width, height, glyphs=glyphs)

    assert len(drawn) == height
    assert {sum(cell_len(segment.text) for segment in line) for line in drawn} == {width}
    assert all(not segment.control for line in drawn for segment in line)
