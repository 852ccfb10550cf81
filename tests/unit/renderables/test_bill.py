from __future__ import annotations

from typing import Any

import pytest

from meminspect.renderables.bill import Scale, bill_lines
from meminspect.renderables.palette import STYLES
from meminspect.units import use_decimal

GIB = 1 << 30


def line(item: str, pool: str | None, gib: float) -> dict[str, Any]:
    return {"item": item, "pool": pool, "bytes": int(gib * GIB)}


def run(bill: list[dict[str, Any]] | None, theory: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A run's document, as far as a bill is drawn from it; the totals are the sums."""

    def total(lines: list[dict[str, Any]] | None) -> int | None:
        return None if lines is None else sum(line["bytes"] for line in lines)

    return {
        "bill": bill,
        "theory": None if theory is None else {"bill": theory, "peak_rss_bytes": total(theory)},
        "peak": {"rss_bytes": total(bill)},
    }


MODEL = [line("floor", "heap", 12.55), line("dtype upcast", "heap", 12.55)]
NAIVE = run(
    [*MODEL, line("duplicate state dict", "heap", 12.55), line("unexplained", None, 0.04)],
    [*MODEL, line("duplicate state dict", "heap", 12.55)],
)


def drawn(document: dict[str, Any], width: int) -> list[str]:
    return [text.plain for text in bill_lines(document, width=width)]


def test_at_100_columns_items_are_explained_and_drawn_to_scale() -> None:
    assert drawn(NAIVE, 100) == [
        "floor, what the model must occupy       12.55  ███████████████████████████████████████  theory 12.55",
        "dtype upcast, built wider than need be  12.55  ███████████████████████████████████████  theory 12.55",
        "duplicate state dict, beside the model  12.55  ███████████████████████████████████████  theory 12.55",
        "unexplained                              0.04  ▏                                        theory  0.00",
        "                                      = 37.69 GiB peak                                  theory 37.65",
    ]


def test_what_theory_has_on_a_device_is_no_part_of_the_hosts_bill() -> None:
    on_device = dict(NAIVE["theory"], bill=[*NAIVE["theory"]["bill"], line("floor", "vram", 99)])
    assert drawn({**NAIVE, "theory": on_device}, 100) == drawn(NAIVE, 100)


def test_at_60_columns_the_bars_take_the_room_of_the_explanations() -> None:
    assert drawn(NAIVE, 60) == [
        "floor                 12.55  █████████████████  theory 12.55",
        "dtype upcast          12.55  █████████████████  theory 12.55",
        "duplicate state dict  12.55  █████████████████  theory 12.55",
        "unexplained            0.04  ▏                  theory  0.00",
        "                    = 37.69 GiB peak            theory 37.65",
    ]


def test_at_46_columns_there_are_no_bars() -> None:
    assert drawn(NAIVE, 46) == [
        "floor                 12.55  theory 12.55",
        "dtype upcast          12.55  theory 12.55",
        "duplicate state dict  12.55  theory 12.55",
        "unexplained            0.04  theory  0.00",
        "                    = 37.69 GiB peak  theory …",
    ]


def test_a_line_of_either_side_finds_its_pair_by_item_and_pool() -> None:
    # given
    mixed = run(
        [line("floor", "heap", 2), line("staging", "file", 1), line("unexplained", None, -0.25)],
        [line("staging", "heap", 1), line("floor", "heap", 2)],
    )

    # then
    assert drawn(mixed, 70) == [
        "floor            2.00  █████████████████████████████████  theory  2.00",
        "staging (file)   1.00  ░░░░░░░░░░░░░░░░                   theory  0.00",
        "staging          0.00                                     theory  1.00",
        "unexplained     −0.25                                     theory  0.00",
        "              =  2.75 GiB peak                            theory  3.00",
    ]


def test_without_theory_its_side_is_unknown() -> None:
    assert drawn(run([line("floor", "heap", 2), line("unexplained", None, 0)], None), 50) == [
        "floor        2.00  ██████████████████  theory    –",
        "unexplained  0.00                      theory    –",
        "           = 2.00 GiB peak             theory    –",
    ]


def test_without_a_measurement_theory_stands_alone() -> None:
    assert drawn(run(None, [line("floor", "file", 2)]), 50) == [
        "floor (file)     –                     theory 2.00",
        "            =    – GiB peak            theory 2.00",
    ]


def test_without_either_there_is_nothing_to_draw() -> None:
    assert bill_lines(run(None, None), width=80) == []


def test_a_bar_has_the_style_of_its_pool() -> None:
    (floor, _) = bill_lines(run([line("floor", "file", 2)], None), width=60)

    assert {str(span.style) for span in floor.spans if "░" in floor.plain[span.start : span.end]} == {"file"}


def test_every_style_is_in_the_palette() -> None:
    styles = {str(span.style) for text in bill_lines(NAIVE, width=100) for span in text.spans}

    assert styles <= {*STYLES, ""}


def test_a_hostile_capture_drives_nothing() -> None:
    (text, _) = bill_lines(run([line("\x1b[2J[red]", "link=x\x07", 1)], None), width=100)

    assert text.plain.startswith("\\x1b[2J[red] (link=x\\x07)  1.00  █")
    assert {str(span.style) for span in text.spans} <= {*STYLES, ""}


@pytest.mark.parametrize("width", range(0, 130, 7))
def test_no_line_is_wider_than_asked(width: int) -> None:
    assert all(text.cell_len <= max(width, 1) for text in bill_lines(NAIVE, width=width))


@pytest.mark.parametrize(
    ("largest_bytes", "decimal", "unit", "text"),
    [
        (0, False, "KiB", "0.00"),
        (1536, False, "KiB", "1.50"),
        (1 << 20, False, "MiB", "1.00"),
        (1500 << 30, False, "GiB", "1,500.00"),
        (10**6, True, "MB", "1.00"),
        (10**9 - 1, True, "MB", "1,000.00"),
    ],
)
def test_one_unit_for_all(largest_bytes: int, decimal: bool, unit: str, text: str) -> None:
    use_decimal(decimal)
    scale = Scale.fit(largest_bytes)

    assert (scale.name, scale.text(largest_bytes)) == (unit, text)


@pytest.mark.parametrize(("nbytes", "text"), [(None, "–"), (-(1 << 29), "−0.50"), (-1, "0.00")])
def test_numbers_have_a_sign_only_where_it_can_be_seen(nbytes: int | None, text: str) -> None:
    assert Scale(GIB, "GiB").text(nbytes) == text
