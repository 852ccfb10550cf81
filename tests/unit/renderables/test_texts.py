"""Text and tables of whatever a checkpoint's header says."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.theme import Theme

from meminspect.renderables.palette import STYLES
from meminspect.renderables.texts import heading, safe, table
from meminspect.text import TEXT_LIMIT

if TYPE_CHECKING:
    from rich.console import RenderableType


def printed(renderable: RenderableType, width: int = 40, *, colour: bool = False) -> list[str]:
    """Lines as a terminal gets them, without the blanks at their ends."""
    console = Console(file=io.StringIO(), width=width, theme=Theme(STYLES), color_system="standard" if colour else None)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("plain größe 重み", "plain größe 重み"),
        ("\x1b[31mred\x07\n", "\\x1b[31mred\\x07\\n"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),  # text that is written backwards
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
        (":smile:", ":smile:"),
        ("\ud800", "\\ud800"),
        (None, "None"),
        (12, "12"),
        ("", ""),
    ],
)
def test_text_is_as_it_is_with_escapes_for_what_a_terminal_would_obey(value: object, plain: str) -> None:
    assert safe(value).plain == plain


def test_text_of_any_length_ends() -> None:
    assert safe("x" * (TEXT_LIMIT + 1)).plain == "x" * (TEXT_LIMIT - 1) + "…"
    assert safe("x" * TEXT_LIMIT).plain == "x" * TEXT_LIMIT
    assert safe("abcdef", limit=4).plain == "abc…"


def test_a_style_is_the_texts_own_and_goes_no_further() -> None:
    line = safe("red", "trouble").append(" plain")
    assert [(span.start, span.end, span.style) for span in line.spans] == [(0, 3, "trouble")]
    assert heading("shards").spans[0].style == "heading"
    assert printed(safe("x", "trouble"), colour=True) == ["\x1b[31mx\x1b[0m"]


@given(st.text(max_size=60))
def test_no_text_is_anything_but_printable(value: str) -> None:
    assert safe(value).plain.isprintable()


def test_a_long_word_is_folded_and_not_cut() -> None:
    assert printed(safe("x" * 45)) == ["x" * 40, "x" * 5]


def test_a_table_has_words_at_the_left_and_numbers_at_the_right() -> None:
    assert printed(table(("tensor", "bytes", "what"), [("a", 5, "read"), ("größe", 1024, "x")])) == [
        "tensor        bytes  what",
        "a                 5  read",
        "größe          1024     x",
    ]


def test_a_table_without_rows_has_its_head() -> None:
    assert printed(table(("tensor", "bytes"), [])) == ["tensor        bytes"]


def test_where_there_is_no_room_the_names_are_folded_and_the_numbers_stay_whole() -> None:
    assert printed(table(("tensor", "bytes"), [("layers.0.attention.wq", "1.00 GiB")]), width=24) == [
        "tensor             bytes",
        "layers.0.atten  1.00 GiB",
        "tion.wq",
    ]


def test_a_hostile_cell_is_escaped_and_ends() -> None:
    lines = printed(table(("tensor",), [("\x1b[2J" * 200,)]), width=120)
    assert all(line.isprintable() for line in lines)
    assert len("".join(lines[1:])) <= 240 * 4
