from __future__ import annotations

import pytest

from meminspect.renderables.bars import ASCII, axis_bytes_for, ceiling_column, memory_bar


def drawn(
    heap: int, total: int, ceiling: int | None = 70, *, axis: int = 80, width: int = 8, ascii_only: bool = False
) -> str:
    glyphs = {"glyphs": ASCII} if ascii_only else {}
    runs = memory_bar(heap, total, ceiling_bytes=ceiling, axis_bytes=axis, width=width, **glyphs)
    return "".join(run.text for run in runs)


@pytest.mark.parametrize(
    ("heap", "total", "expected"),
    [
        (0, 0, "       │"),
        (30, 30, "███    │"),
        (35, 35, "███▌   │"),
        (0, 30, "░░░    │"),
        (20, 50, "██░░░  │"),
        (25, 50, "██▌░░  │"),
        (70, 70, "███████│"),  # exactly what there is
        (71, 71, "███████┿"),
        (60, 75, "██████░┿"),
        (5, 75, "▌░░░░░░┿"),
    ],
)
def test_bars_are_to_scale_with_the_ceiling_marked(heap: int, total: int, expected: str) -> None:
    assert drawn(heap, total) == expected


def test_what_goes_beyond_the_picture_says_so() -> None:
    assert drawn(500, 500, 40) == "████┿██▶"
    assert drawn(10, 500, 40) == "█░░░┿░░▶"


def test_the_least_heap_and_the_least_file_are_seen() -> None:
    assert drawn(1, 1, axis=10**6, ceiling=None) == "▏       "
    assert drawn(0, 1, axis=10**6, ceiling=None) == "░       "
    assert drawn(1, 2, axis=10**6, ceiling=None) == "▏░      "


def test_without_a_ceiling_nothing_is_marked() -> None:
    assert drawn(40, 80, None) == "████░░░░"


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert drawn(20, 50, ascii_only=True) == "##:::  |"
    assert drawn(500, 500, 40, ascii_only=True) == "####+##>"
    assert drawn(25, 25, ascii_only=True).isascii()


@pytest.mark.parametrize("width", [1, 2, 7, 33])
@pytest.mark.parametrize("heap", [0, 1, 69, 70, 71, 10**12])
@pytest.mark.parametrize("file", [0, 1, 69, 10**12])
def test_every_bar_is_exactly_as_wide_as_asked(width: int, heap: int, file: int) -> None:
    for ceiling in (None, 1, 70, 80):
        assert len(drawn(heap, heap + file, ceiling, width=width)) == width


def test_each_run_has_one_meaning() -> None:
    runs = memory_bar(20, 80, ceiling_bytes=70, axis_bytes=80, width=8)

    assert runs == [("██", "heap"), ("░░░░░", "file"), ("┿", "ceiling")]


def test_the_ceiling_lies_inside_the_axis() -> None:
    assert axis_bytes_for(700, 10) == 800
    assert axis_bytes_for(None, 10) == 10
    assert axis_bytes_for(None, 0) == 1
    assert ceiling_column(700, 800, 24) == 21
    assert ceiling_column(None, 800, 24) is None
