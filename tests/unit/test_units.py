from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.errors import UsageError
from meminspect.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_count,
    format_duration,
    format_moment,
    format_rate,
    format_share,
    parse_bytes,
    parse_count,
    parse_duration,
    use_decimal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BINARY = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15, "EB": 10**18}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"),
        (MIB, "1.00 MiB"), (13_475_000_000, "12.55 GiB"), (2**60, "1.00 EiB"), (2**70, "1024.00 EiB"),
        (-1536, "-1.50 KiB"), (-5, "-5 B"), (None, "–"), (1536.0, "1.50 KiB"),
    ],
)  # fmt: skip
def test_bytes_in_binary_units(count: float | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 B"), (1000, "1.00 kB"), (13_475_000_000, "13.47 GB"), (-2_500_000, "-2.50 MB"), (None, "–")],
)
def test_bytes_in_decimal_units(count: int | None, text: str) -> None:
    use_decimal(True)
    assert format_bytes(count) == text


@given(st.integers(-(2**62), 2**62), st.booleans())
def test_a_formatted_size_is_right_to_half_a_digit(count: int, decimal: bool) -> None:
    use_decimal(decimal)
    number, unit = format_bytes(count).split(" ")
    size = (DECIMAL if decimal else BINARY)[unit]
    assert abs(float(number) * size - count) <= 0.005001 * size


@pytest.mark.parametrize(
    ("count", "decimal", "text"),
    [
        (MIB - 1, False, "1.00 MiB"),
        (GIB - 1, False, "1.00 GiB"),
        (999_999, True, "1.00 MB"),
        (1 - MIB, False, "-1.00 MiB"),
    ],
)
def test_a_size_that_rounds_up_takes_the_next_unit(count: int, decimal: bool, text: str) -> None:
    use_decimal(decimal)
    assert format_bytes(count) == text


@pytest.mark.parametrize(("rate", "text"), [(None, "–"), (0.0, "0 B/s"), (1.5 * GIB, "1.50 GiB/s")])
def test_rates(rate: float | None, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0.0, "0 µs"), (850e-6, "850 µs"), (0.0123, "12.3 ms"), (4.56, "4.56 s"), (60.0, "1:00 min"),
        (125.0, "2:05 min"), (119.6, "2:00 min"), (3600.0, "60:00 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_duration_can_be_written_in_the_unit_of_another() -> None:
    assert format_duration(0.5, like=2.0) == "0.50 s"
    assert format_duration(0.0004, like=0.02) == "0.4 ms"
    assert format_duration(30.0, like=90.0) == "0:30 min"
    assert format_duration(None, like=2.0) == "–"


@pytest.mark.parametrize(("seconds", "text"), [(0.000_999_9, "1.0 ms"), (0.999_96, "1.00 s"), (59.999, "1:00 min")])
def test_a_duration_that_rounds_up_takes_the_next_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (512, "512"), (999_999, "999,999"), (10**6, "1.00 M"), (124_439_808, "124.44 M"),
        (6_738_415_616, "6.74 B"), (10**12, "1.00 T"), (999_999_999, "1.00 B"),
    ],
)  # fmt: skip
def test_counts(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("8", 8), ("8B", 8), ("8 b", 8), ("8GiB", 8 * GIB), ("8G", 8 * GIB), ("8g", 8 * GIB),
        ("8GB", 8 * 10**9), ("8gb", 8 * 10**9), ("1.5 gib", 3 * GIB // 2), (" 512MiB ", 512 * MIB), ("1k", KIB),
        ("1kB", 1000), ("1Ki", KIB), ("0.5KiB", 512), ("7EiB", 7 * 2**60), ("2TB", 2 * 10**12),
        ("9007199254740993", 2**53 + 1),
    ],
)  # fmt: skip
def test_sizes_are_parsed(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["", " ", "G", "-1", "-1GiB", "1e9", "8GiBs", "8XB", "1,5GiB", "1.GiB", ".5G", "0x10", "8 G iB", "8i", "8iB"],
)  # fmt: skip
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert "GiB" in caught.value.hint


@pytest.mark.parametrize("text", ["9" * 40, "9" * 400], ids=["40 digits", "400 digits"])
def test_a_number_beyond_all_measure_is_refused_in_a_short_line(text: str) -> None:
    for parse in (parse_bytes, parse_count):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert len(caught.value.message) < 80


@given(st.integers(0, 2**62))
def test_any_number_of_plain_bytes_is_taken_exactly(count: int) -> None:
    assert parse_bytes(str(count)) == count


@given(st.integers(0, 2**62))
def test_a_size_that_was_formatted_is_parsed_to_about_the_same(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.006, abs=1)


@pytest.mark.parametrize("parse", [parse_bytes, parse_count])
@given(text=st.text(max_size=12))
def test_any_text_is_parsed_or_refused_by_name(parse: Callable[[str], int], text: str) -> None:
    try:
        number = parse(text)
    except UsageError as error:
        number = 0
        message = error.message
    else:
        message = text
    assert number >= 0
    assert text in message


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512", 512),
        ("124M", 124 * 10**6),
        ("1.3B", 1_300_000_000),
        ("1.3 b", 1_300_000_000),
        ("2k", 2000),
        ("1T", 10**12),
    ],
)
def test_parameter_counts_are_parsed(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "7e9", "-7B", "B", "7BB", "7GiB"])
def test_what_is_no_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_count(text)
    assert "1.3B" in caught.value.hint


def test_a_moment_is_told_to_the_minute_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert format_moment("2026-11-24T12:34:56+01:00") == "2026-11-24 11:34"
    assert [format_moment(text) for text in ("", None, "\x1b[2J", 5)] == ["–"] * 4
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("90", 90.0), (" 1.5 MIN ", 90.0), ("10m", 600.0), ("1h", 3600.0), ("250ms", 0.25), ("5sec", 5.0)],
)
def test_times_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("soon", "is not a time"), ("", "is not a time"), ("-1s", "is not a time"), ("1d", "is not a time"),
        ("1:30", "is not a time"), ("0", "leaves a run no time"), ("0.4 ms", "leaves a run no time"),
        ("1000h", "is longer than 10 days"), ("9" * 400, "is longer than 10 days"),
    ],
)  # fmt: skip
def test_what_is_no_time_to_wait_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_duration(text)


@given(st.floats(0.001, 10 * 24 * 3600, allow_nan=False))
def test_seconds_come_back(seconds: float) -> None:
    assert parse_duration(f"{seconds:.15g}s") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("fraction", "words"),
    [(0.0, "0 %"), (1e-9, "< 1 %"), (0.385, "38 %"), (0.9999, "99 %"), (1.0, "100 %")],
)
def test_only_nothing_is_0_percent_and_only_everything_is_100(fraction: float, words: str) -> None:
    assert format_share(fraction) == words
