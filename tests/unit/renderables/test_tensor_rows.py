from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.analysis.operations import TensorOperation
from meminspect.capture.records import Pool
from meminspect.renderables.palette import STYLES
from meminspect.renderables.tensor_rows import header_line, tensor_line

START = 5_000_000_000
COPIED = TensorOperation(
    START + 3_180_000_000, "copy", "copied", "layers.14.feed_forward.w1.weight", "[11008, 4096]", "f16→f32",
    86 << 20, 11_000_000,
)  # fmt: skip


def drawn(width: int, operation: TensorOperation = COPIED) -> str:
    return tensor_line(operation, START, width).plain


def test_at_120_columns_everything_is_said() -> None:
    assert [header_line(120).plain, drawn(120)] == [
        "     time  tensor                              shape              dtype          bytes  duration          rate  what    ",  # noqa: E501 - as it is drawn
        "  +3.18 s  layers.14.feed_forward.w1.weight    [11008, 4096]      f16→f32    86.00 MiB   11.0 ms    7.63 GiB/s  copied  ",  # noqa: E501 - as it is drawn
    ]


def test_at_100_columns_the_rate_goes() -> None:
    assert [header_line(100).plain, drawn(100)] == [
        "     time  tensor                        shape              dtype          bytes  duration  what    ",
        "  +3.18 s  …s.14.feed_forward.w1.weight  [11008, 4096]      f16→f32    86.00 MiB   11.0 ms  copied  ",
    ]


def test_at_80_columns_the_shape_goes_and_the_name_loses_its_start() -> None:
    assert [header_line(80).plain, drawn(80)] == [
        "     time  tensor                       dtype          bytes  duration  what    ",
        "  +3.18 s  ….14.feed_forward.w1.weight  f16→f32    86.00 MiB   11.0 ms  copied  ",
    ]


def test_at_60_columns_name_bytes_and_word_are_left_with_the_time() -> None:
    assert [header_line(60).plain, drawn(60)] == [
        "     time  tensor                            bytes  what    ",
        "  +3.18 s  ….14.feed_forward.w1.weight   86.00 MiB  copied  ",
    ]


def test_at_45_columns_name_bytes_and_word_are_left() -> None:
    assert [header_line(45).plain, drawn(45)] == [
        "tensor                        bytes  what    ",
        "…feed_forward.w1.weight   86.00 MiB  copied  ",
    ]


def test_in_flight_there_is_neither_duration_nor_rate() -> None:
    assert drawn(120, COPIED._replace(elapsed_ns=None)) == (
        "  +3.18 s  layers.14.feed_forward.w1.weight    [11008, 4096]      f16→f32    86.00 MiB         …                copied  "  # noqa: E501 - as it is drawn
    )


@pytest.mark.parametrize("word", ["mapped", "assigned"])
def test_where_no_bytes_move_there_is_no_rate(word: str) -> None:
    assert "/s" not in drawn(120, COPIED._replace(word=word))
    assert "11.0 ms" in drawn(120, COPIED._replace(word=word))


def test_what_took_no_time_has_no_rate() -> None:
    assert "/s" not in drawn(120, COPIED._replace(elapsed_ns=0))


def test_the_word_has_the_colour_of_the_pool_that_grows() -> None:
    mapped = tensor_line(COPIED._replace(word="mapped", pool=Pool.FILE), START, 80)

    (span,) = (span for span in mapped.spans if "mapped" in mapped.plain[span.start : span.end])
    assert span.style == "file"


def test_every_style_is_in_the_palette() -> None:
    lines = [header_line(120), tensor_line(COPIED, START, 120)]

    assert {str(span.style) for line in lines for span in line.spans} <= {*STYLES, ""}


def test_a_hostile_name_is_escaped_and_is_no_markup() -> None:
    line = drawn(80, COPIED._replace(tensor="[red]\x1b[2J\u202ew"))

    assert line.startswith("  +3.18 s  [red]\\x1b[2J\\u202ew ")


def test_wide_characters_keep_the_columns() -> None:
    line = tensor_line(COPIED._replace(tensor="层" * 40), START, 80)

    assert line.cell_len == 80
    assert line.plain.startswith("  +3.18 s  …层")


@given(
    st.text(),
    st.text(max_size=40),
    st.integers(0, 1 << 80),
    st.none() | st.integers(0, 1 << 60),
    st.integers(1, 220),
)
def test_a_line_is_as_wide_as_asked_whatever_it_says(
    name: str, shape: str, nbytes: int, elapsed_ns: int | None, width: int
) -> None:
    operation = COPIED._replace(tensor=name, shape=shape, nbytes=nbytes, elapsed_ns=elapsed_ns)

    line = tensor_line(operation, START, width)

    assert line.cell_len == header_line(width).cell_len == width
    assert line.plain.isprintable()
