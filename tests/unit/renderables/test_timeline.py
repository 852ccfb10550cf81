from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from meminspect.analysis.reduction import Series, Timeline
from meminspect.renderables.timeline import ASCII, UNICODE, Picture, axis_for, draw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.segment import Segment
    from rich.style import Style

    from meminspect.renderables.timeline import Glyphs

GIB, MS = 1 << 30, 10**6
SMALL, WIDE = (40, 10), (80, 12)  # plots of 35 and 61 or so columns
PHASES = ((0, "build"), (10 * MS, "read"), (25 * MS, "copy"))


def series(pools: Iterable[tuple[float, ...]]) -> Series:
    """One reading a millisecond, in the middle of it: GiB of heap, file and pinned memory, and of VRAM."""
    timeline = Timeline()
    for number, reading in enumerate(pools):
        heap, file, pinned, vram = (round(gib * GIB) for gib in (*reading, 0, 0, 0)[:4])
        timeline.add(number * MS + MS // 2, heap, file, pinned, vram if len(reading) > 3 else None)
    return timeline.frozen()


def frozen(readings: list[tuple[int, int, int, int, int | None]]) -> Series:
    timeline = Timeline(64)
    for reading in readings:
        timeline.add(*reading)
    return timeline.frozen()


def picture(drawn: Series, columns: int = 35, **fields: Any) -> Picture:
    """A picture of that many milliseconds, 40 GiB high."""
    given = {"theory_bytes": 30 * GIB, "ceiling_bytes": 35 * GIB, "phases": PHASES, "axis_bytes": 40 * GIB, **fields}
    return Picture(series=drawn, span_ns=columns * MS, **given)


def lines_of(drawn: list[list[Segment]]) -> list[str]:
    return ["".join(segment.text for segment in line) for line in drawn]


def lines(shown: Picture, size: tuple[int, int] = SMALL, **options: Any) -> list[str]:
    return [line.rstrip() for line in lines_of(draw(shown, *size, **options))]


def style_at(drawn: list[list[Segment]], row: int, column: int) -> Style | None:
    """The style of a cell."""
    for segment in drawn[row]:
        column -= len(segment.text)
        if column < 0:
            return segment.style
    raise AssertionError("no such column")


RAMP = [(float(gib),) for gib in range(1, 31)]
SHORT_PHASES = (
    (0, "build"), (3 * MS, "read"), (8 * MS, "merge"), (8 * MS, "cast"), (9 * MS, "copy"), (13 * MS, "finalise"),
    (20 * MS, "touch"),
)  # fmt: skip
SAW = [(10.0 + 15 * (number % 8 >= 4),) for number in range(32)]


def test_an_empty_series_has_axes_and_theory() -> None:
    assert lines(picture(Series()), SMALL) == [
        "GiB │",
        "    │───────────────────── ceiling 35.00",
        "    │······················ theory 30.00",
        "    │",
        " 20 ┤",
        "    │",
        "    │",
        "    │",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
    ]


def test_a_ramp_ends_in_its_peak() -> None:
    assert lines(picture(series(RAMP), peak_ns=29 * MS + MS // 2), SMALL) == [
        "GiB │",
        "    │────────────── ceiling 35.00─▾─────",
        "    │··············· theory 30.00·▂·····",
        "    │                       ▁▃▄▅▇██",
        " 20 ┤                 ▁▂▄▅▆████████",
        "    │            ▂▃▅▆▇█████████████",
        "    │      ▁▃▄▆▇███████████████████",
        "    │▁▂▄▅▇█████████████████████████",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
    ]


MAPPED = [(0.0, 0.0)] * 12 + [(0.0, float(gib)) for gib in range(1, 20)]


def test_a_mapped_load_shows_where_it_returned_and_what_came_then() -> None:
    assert lines(picture(series(MAPPED), returned_ns=11 * MS, phases=((0, "read"), (11 * MS, "touch"))), SMALL) == [
        "GiB │           ┊ returned",
        "    │───────────────────── ceiling 35.00",
        "    │······················ theory 30.00",
        "    │           ┊",
        " 20 ┤           ┊",
        "    │           ┊              ░░░░░",
        "    │           ┊        ░░░░░░░░░░░",
        "    │           ┊░░░░░░░░░░░░░░░░░░░",
        "  0 └───────────┬──────20 ms────────────",
        "     read       │ touch",
    ]  # fmt: skip


def test_a_return_near_the_end_is_named_on_its_other_side_and_hides_no_data() -> None:
    late, without = (lines(picture(series(RAMP), returned_ns=at)) for at in (27 * MS, None))
    assert late[0] == "GiB │                  returned ┊"
    assert late[1:] == without[1:]


@pytest.mark.parametrize("returned_ns", [None, 29 * MS, 34 * MS, 50 * MS])
def test_a_load_that_is_resident_as_it_returns_has_no_such_line(returned_ns: int | None) -> None:
    assert lines(picture(series(RAMP), returned_ns=returned_ns)) == lines(picture(series(RAMP)))


def test_teeth_stay_teeth() -> None:
    assert lines(picture(series(SAW)), SMALL) == [
        "GiB │",
        "    │───────────────────── ceiling 35.00",
        "    │······················ theory 30.00",
        "    │    ▃▃▃▃    ▃▃▃▃    ▃▃▃▃    ▃▃▃▃",
        " 20 ┤    ████    ████    ████    ████",
        "    │    ████    ████    ████    ████",
        "    │▆▆▆▆████▆▆▆▆████▆▆▆▆████▆▆▆▆████",
        "    │████████████████████████████████",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
    ]


def test_pools_are_stacked_heap_first() -> None:
    assert lines(picture(series([(10, 10, 5)] * 10 + [(10, 10, 0)] * 10 + [(0, 20)] * 10)), SMALL) == [
        "GiB │",
        "    │───────────────────── ceiling 35.00",
        "    │······················ theory 30.00",
        "    │",
        " 20 ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
        "    │▓▓▓▓▓▓▓▓▓▓░░░░░░░░░░░░░░░░░░░░",
        "    │████████████████████░░░░░░░░░░",
        "    │████████████████████░░░░░░░░░░",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
    ]


def test_theory_is_hidden_by_what_meets_it() -> None:
    assert lines(picture(series([(10,)] * 10 + [(30,)] * 10 + [(33,)] * 5)), SMALL) == [
        "GiB │",
        "    │──────── ceiling 35.00 theory 30.00",
        "    │··········▂▂▂▂▂▂▂▂▂▂▆▆▆▆▆··········",
        "    │          ███████████████",
        " 20 ┤          ███████████████",
        "    │          ███████████████",
        "    │▆▆▆▆▆▆▆▆▆▆███████████████",
        "    │█████████████████████████",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
    ]


def test_labels_stand_beside_a_wide_plot() -> None:
    assert lines(picture(series(RAMP), 61), WIDE) == [
        "GiB │",
        "    │",
        "    │───────────────────────────────────────────────────────────── ceiling 35.00",
        "    │···························▂▄▆·······························  theory 30.00",
        "    │                      ▁▃▅▆████",
        " 20 ┤                  ▂▄▅▇████████",
        "    │             ▁▃▄▆█████████████",
        "    │         ▂▃▅▇█████████████████",
        "    │    ▁▂▄▆██████████████████████",
        "    │▁▃▅▇██████████████████████████",
        "  0 └──────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build     │ read         │ copy",
    ]


def test_a_far_ceiling_is_said_on_top() -> None:
    assert lines(picture(series(RAMP), 61, ceiling_bytes=100 * GIB), WIDE) == [
        "GiB │                                                       ▲ ceiling 100.00 GiB",
        "    │",
        "    │",
        "    │···························▂▄▆······························   theory 30.00",
        "    │                      ▁▃▅▆████",
        " 20 ┤                  ▂▄▅▇████████",
        "    │             ▁▃▄▆█████████████",
        "    │         ▂▃▅▇█████████████████",
        "    │    ▁▂▄▆██████████████████████",
        "    │▁▃▅▇██████████████████████████",
        "  0 └─────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build    │ read         │ copy",
    ]


def test_a_ceiling_is_crossed_by_what_exceeds_it() -> None:
    assert lines(picture(series([*RAMP, *[(35,)] * 4, *[(35.01,)] * 4]), 61, ceiling_bytes=35 * GIB), WIDE) == [
        "GiB │",
        "    │",
        "    │──────────────────────────────────┿┿┿┿─────────────────────── ceiling 35.00",
        "    │···························▂▄▆████████·······················  theory 30.00",
        "    │                      ▁▃▅▆████████████",
        " 20 ┤                  ▂▄▅▇████████████████",
        "    │             ▁▃▄▆█████████████████████",
        "    │         ▂▃▅▇█████████████████████████",
        "    │    ▁▂▄▆██████████████████████████████",
        "    │▁▃▅▇██████████████████████████████████",
        "  0 └──────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build     │ read         │ copy",
    ]


def test_two_lines_in_one_row_share_it() -> None:
    assert lines(picture(series(RAMP), 61, ceiling_bytes=31 * GIB), WIDE) == [
        "GiB │",
        "    │",
        "    │",
        "    │──────────────────────────────────────────────── ceiling 31.00 theory 30.00",
        "    │                      ▁▃▅▆████",
        " 20 ┤                  ▂▄▅▇████████",
        "    │             ▁▃▄▆█████████████",
        "    │         ▂▃▅▇█████████████████",
        "    │    ▁▂▄▆██████████████████████",
        "    │▁▃▅▇██████████████████████████",
        "  0 └──────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build     │ read         │ copy",
    ]


def test_a_full_row_has_its_names_above_and_below() -> None:
    assert lines(picture(series([(34,)] * 61), 61, ceiling_bytes=33 * GIB, theory_bytes=34 * GIB), WIDE) == [
        "GiB │",
        "    │                                                               theory 34.00",
        "    │┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿┿ ceiling 33.00",
        "    │█████████████████████████████████████████████████████████████",
        "    │█████████████████████████████████████████████████████████████",
        " 20 ┤█████████████████████████████████████████████████████████████",
        "    │█████████████████████████████████████████████████████████████",
        "    │█████████████████████████████████████████████████████████████",
        "    │█████████████████████████████████████████████████████████████",
        "    │█████████████████████████████████████████████████████████████",
        "  0 └──────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build     │ read         │ copy",
    ]


def test_a_death_is_where_it_happened() -> None:
    assert lines(
        picture(series(RAMP[:27]), 61, ceiling_bytes=25 * GIB, peak_ns=26 * MS, died_ns=26 * MS + MS // 2), WIDE
    ) == [
        "GiB │",
        "    │",
        "    │",
        "    │··························✗··································  theory 30.00",
        "    │─────────────────────────┿┿────────────────────────────────── ceiling 25.00",
        " 20 ┤                  ▂▄▅▇████╎",
        "    │             ▁▃▄▆█████████╎",
        "    │         ▂▃▅▇█████████████╎",
        "    │    ▁▂▄▆██████████████████╎",
        "    │▁▃▅▇██████████████████████╎",
        "  0 └──────────┬───────20 ms──┬────────────40 ms───────────────60 ms",
        "     build     │ read         │ copy",
    ]


def test_phases_too_short_for_their_names_are_cut_or_left_out() -> None:
    assert lines(picture(series(RAMP), phases=SHORT_PHASES), SMALL) == [
        "GiB │",
        "    │───────────────────── ceiling 35.00",
        "    │··············· theory 30.00·▂·····",
        "    │                       ▁▃▄▅▇██",
        " 20 ┤                 ▁▂▄▅▆████████",
        "    │            ▂▃▅▆▇█████████████",
        "    │      ▁▃▄▆▇███████████████████",
        "    │▁▂▄▅▇█████████████████████████",
        "  0 └───┬────┬┬───┬────20 ms────────────",
        "        │read││   │final…│ touch",
    ]


def test_the_device_has_a_lane_of_its_own() -> None:
    assert lines(
        picture(series([(4, 0, 4, min(number / 2, 16)) for number in range(40)]), 61, vram_total_bytes=24 * GIB),
        (80, 14),
    ) == [
        " GiB │",
        "     │──────────────────────────────────────────────────────────── ceiling 35.00",
        "     │····························································  theory 30.00",
        "     │",
        "  20 ┤",
        "     │",
        "     │▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓",
        "     │███████████████████████████████████████",
        "   0 └─────────┬─────────┴────┬──────────────┴───────────────────┴",
        "      build    │ read         │ copy",
        "      0                20 ms               40 ms               60 ms",
        "VRAM │                                                                 max 16.00",
        "     │                  ▁▁▂▂▃▃▄▄▅▅▆▆▇████████                       of 24.00 GiB",
        "     │ ▁▁▁▂▂▃▃▄▄▅▅▆▆▇▇███████████████████████",
    ]


def test_without_a_device_a_note_says_why() -> None:
    assert lines(picture(series(RAMP), vram_note="VRAM: no device that torch could use"), SMALL) == [
        "GiB │",
        "    │───────────────────── ceiling 35.00",
        "    │············· theory 30.00·▁▂▄·····",
        " 20 ┤                    ▁▂▃▄▆▇████",
        "    │              ▂▃▄▅▆███████████",
        "    │       ▁▂▄▅▆▇█████████████████",
        "    │▁▂▃▄▆▇████████████████████████",
        "  0 └──────────┬───────20 ms──┬─────────",
        "     build     │ read         │ copy",
        "     VRAM: no device that torch could u…",
    ]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert lines(
        picture(
            series([(10, 10, 5)] * 10 + [(31.5,)] * 10), 61, ceiling_bytes=31 * GIB, peak_ns=12 * MS, died_ns=19 * MS
        ),
        WIDE,
        glyphs=ASCII,
    ) == [
        "GiB |",
        "    |",
        "    |            v      x",
        "    |----------++++++++++---------------------------- ceiling 31.00 theory 30.00",
        "    |::::::::::#########!",
        " 20 +::::::::::#########!",
        "    |::::::::::#########!",
        "    |%%%%%%%%%%#########!",
        "    |###################!",
        "    |###################!",
        "  0 +----------+-------20 ms--+------------40 ms---------------60 ms",
        "     build     | read         | copy",
    ]


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


def test_colour_is_never_the_only_carrier_and_has_one_meaning() -> None:
    drawn = draw(picture(series([(10, 10, 5)] * 35), ceiling_bytes=39 * GIB), *SMALL)

    # then cells differ by character where their colours differ
    assert [str(style_at(drawn, row, 10)) for row in range(1, 8)] == [
        "yellow", "white", "none", "cyan", "blue", "blue", "blue",
    ]  # fmt: skip
    assert [lines_of(drawn)[row][10] for row in range(1, 8)] == ["─", "·", " ", "░", "▓", "█", "█"]
    assert str(style_at(drawn, 8, 0)) == "dim"


def test_what_was_reached_for_a_moment_is_dim() -> None:
    # given columns in which memory jumps from 10 to 25 and back
    timeline = Timeline()
    for number in range(70):
        timeline.add(number * MS // 2 + MS // 4, (25 if number % 2 else 10) * GIB, 0, 0)
    drawn = draw(picture(timeline.frozen()), *SMALL)

    # then what lies above the row of the lower one is dim, and the rest is not
    column = 20
    assert [lines_of(drawn)[row][column] for row in range(3, 8)] == ["▃", "█", "█", "█", "█"]
    assert [str(style_at(drawn, row, column)) for row in range(3, 8)] == ["dim blue"] * 3 + ["blue"] * 2


def test_what_stays_is_not_dim_where_whole_cells_show_more_than_there_is() -> None:
    # given so little of three pools that each has a cell that it does not fill
    drawn = draw(picture(series([(2, 1, 1)] * 35)), *SMALL)

    assert [lines_of(drawn)[row][20] for row in range(5, 8)] == ["░", "▓", "▂"]
    assert [str(style_at(drawn, row, 20)) for row in range(5, 8)] == ["cyan", "blue", "blue"]


def test_a_few_pages_of_libraries_are_not_drawn_as_a_part_of_the_load() -> None:
    drawn = lines(picture(series([(20, 0.1)] * 35), theory_bytes=None, ceiling_bytes=None))

    assert not any("░" in line for line in drawn)


def test_a_little_heap_is_seen_alone_but_not_in_the_place_of_what_fills_its_cell() -> None:
    alone = lines(picture(series([(0.01,)] * 35)))
    below = lines(picture(series([(0.01, 12)] * 35)))

    assert alone[7] == "    │" + "▁" * 35
    assert below[7] == "    │" + "░" * 35


def test_the_peak_is_marked_where_it_is_drawn() -> None:
    # given a peak whose bin lies across the edge to the next column
    shown = picture(series([(10,)] * 20 + [(20,)] + [(10,)] * 14), peak_ns=20 * MS - 1)

    assert lines(shown)[3] == "    │" + " " * 20 + "▾"


def test_the_peaks_mark_breaks_a_line_but_hides_no_crossing() -> None:
    # given peaks just below the ceiling's row, and so little above the ceiling that nothing of it is seen
    below = picture(series([(32,)] * 35), peak_ns=5 * MS, theory_bytes=None, ceiling_bytes=36 * GIB)
    above = picture(series([(34.4,)] * 35), peak_ns=5 * MS, theory_bytes=None, ceiling_bytes=round(34.3 * GIB))

    assert lines(below)[1] == "    │─────▾─────────────── ceiling 36.00"
    assert lines(above)[:2] == ["GiB │     ▾                ceiling 34.30", "    │" + "┿" * 35]


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


def test_text_from_outside_cannot_break_a_line() -> None:
    shown = picture(series(RAMP), phases=((0, "\x1b[2J\n"), (9 * MS, "読む")), vram_note="\t読")

    assert lines(shown)[-2:] == ["     \\x1b[2J\\n│ ??", "     \\t?"]


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
)


@given(pictures, st.integers(20, 220), st.integers(3, 60), st.sampled_from([ASCII, UNICODE]))
def test_every_picture_is_exactly_as_large_as_asked(shown: Picture, width: int, height: int, glyphs: Glyphs) -> None:
    drawn = draw(shown, width, height, glyphs=glyphs)

    assert len(drawn) == height
    assert {sum(cell_len(segment.text) for segment in line) for line in drawn} == {width}
    assert all(not segment.control for line in drawn for segment in line)
