from __future__ import annotations

import pytest
from rich.style import Style
from timeline_pictures import (
    GIB,
    MS,
    RAMP,
    SAW,
    SHORT_PHASES,
    SMALL,
    WIDE,
    lines,
    lines_of,
    picture,
    series,
    style_at,
)

from meminspect.analysis.reduction import Series, Timeline
from meminspect.renderables.palette import STYLES
from meminspect.renderables.timeline import ASCII, draw


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
        "VRAM │                       ▁▂▂▃▄▅▅▇████████                      max 16.00 GiB",
        "     │            ▁▁▂▃▄▄▅▆▇▇█████████████████                       of 24.00 GiB",
        "     │ ▁▁▂▃▃▄▅▆▆▇████████████████████████████",
    ]


def test_lanes_that_are_compared_are_as_high_as_the_highest() -> None:
    half = picture(series([(4, 0, 4, 8)] * 61), 61, vram_total_bytes=24 * GIB, vram_axis_bytes=16 * GIB)
    top, *below = lines(half, (80, 14))[-3:]
    assert "█" not in top
    assert all("█" in line for line in below[1:])


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


def test_text_from_outside_cannot_break_a_line() -> None:
    shown = picture(series(RAMP), phases=((0, "\x1b[2J\n"), (9 * MS, "読む")), vram_note="\t読")

    assert lines(shown)[-2:] == ["     \\x1b[2J\\n│ ??", "     \\t?"]


def test_where_nothing_tells_of_the_device_its_lane_is_theorys_and_says_so() -> None:
    shown = picture(series(RAMP), vram_theory=(0, 2 * GIB, 4 * GIB, 4 * GIB), vram_note="vram: no NVIDIA GPU")

    drawn = lines(shown, (80, 12))
    assert drawn[-1].strip() == "vram: no NVIDIA GPU"
    assert drawn[-4].startswith("VRAM │")
    assert drawn[-4].endswith("max 4.00 GiB")
    assert drawn[-3].endswith("by theory")
    assert drawn[-2].count("█") > drawn[-4].count("█") > 0
    assert style_at(draw(shown, 80, 12), 10, 40) == Style.parse(STYLES["theory"])
