from __future__ import annotations

from typing import Any

import pytest
from rich.color import Color

from meminspect.renderables.palette import STYLES
from meminspect.renderables.pool_chart import pool_chart
from meminspect.units import use_decimal

GIB = 1 << 30


def pools(heap: float, file: float = 0, pinned: float = 0, vram: float | None = None) -> dict[str, int | None]:
    return {
        "heap_bytes": int(heap * GIB),
        "file_bytes": int(file * GIB),
        "pinned_bytes": int(pinned * GIB),
        "vram_allocated_bytes": None if vram is None else int(vram * GIB),
    }


def run(measured: dict[str, int | None], theory: dict[str, int | None] | None) -> dict[str, Any]:
    return {"peak": measured, "theory": None if theory is None else {"peak": theory}}


CAST = run(pools(12.6, 6.25), pools(12.55, 6.3))


def drawn(document: dict[str, Any], width: int = 60, height: int = 20) -> list[str]:
    return [text.plain.rstrip() for text in pool_chart(document, width=width, height=height)]


def test_two_pools_measured_above_theory() -> None:
    assert drawn(CAST) == [
        "                   peaks in GiB: █ measured, ░ theory",
        "            ┌──────────────────────────────────────────────┐",
        "  heap 12.60┤██████████████████████████████████████████████│",
        "theory 12.55┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░│",
        "            │                                              │",
        "   file 6.25┤███████████████████████                       │",
        " theory 6.30┤░░░░░░░░░░░░░░░░░░░░░░░░                      │",
        "            └┬──────────┬───────────┬──────────┬──────────┬┘",
        "            0.0        3.1         6.3        9.4      12.6",
    ]


def test_pinned_and_vram_come_in_where_either_side_uses_them() -> None:
    assert drawn(run(pools(1, vram=2), pools(1, pinned=1, vram=2))) == [
        "                  peaks in GiB: █ measured, ░ theory",
        "           ┌───────────────────────────────────────────────┐",
        "  heap 1.00┤████████████████████████                       │",
        "theory 1.00┤░░░░░░░░░░░░░░░░░░░░░░░░                       │",
        "           │                                               │",
        "  file 0.00┤                                               │",
        "theory 0.00┤                                               │",
        "           │                                               │",
        "pinned 0.00┤                                               │",
        "theory 1.00┤░░░░░░░░░░░░░░░░░░░░░░░░                       │",
        "           │                                               │",
        "  vram 2.00┤███████████████████████████████████████████████│",
        "theory 2.00┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░│",
        "           └┬───────────┬──────────┬───────────┬──────────┬┘",
        "          0.00        0.50       1.00        1.50      2.00",
    ]


def test_without_theory_there_are_measured_bars_only() -> None:
    assert drawn(run(pools(2, 1), None)) == [
        "                 peaks in GiB: █ measured, ░ theory",
        "         ┌─────────────────────────────────────────────────┐",
        "heap 2.00┤█████████████████████████████████████████████████│",
        "         │                                                 │",
        "file 1.00┤█████████████████████████                        │",
        "         └┬───────────┬───────────┬───────────┬───────────┬┘",
        "        0.00        0.50        1.00        1.50       2.00",
    ]


def test_a_bar_has_its_pools_colour() -> None:
    # when
    lines = pool_chart(CAST, width=60, height=20)

    # then
    colours = [span.style.color for text in lines for span in text.spans if not isinstance(span.style, str)]
    assert {colour.number for colour in colours if colour is not None} >= {
        Color.parse(STYLES[pool]).number for pool in ("heap", "file")
    }


def test_nothing_measured_draws_nothing() -> None:
    nothing = dict.fromkeys(pools(0))

    assert drawn(run(nothing, pools(1))) == []


def test_nothing_used_is_drawn_without_bars() -> None:
    assert "█" not in "".join(drawn(run(pools(0), pools(0)))[1:])


@pytest.mark.parametrize(("width", "height"), [(51, 20), (60, 8), (0, 0), (-1, -1)])
def test_without_room_nothing_is_drawn(width: int, height: int) -> None:
    assert drawn(CAST, width, height) == []


@pytest.mark.parametrize(("width", "height"), [(52, 9), (300, 80)])
def test_it_keeps_to_its_room_and_names_its_unit(width: int, height: int) -> None:
    use_decimal(True)
    lines = pool_chart(CAST, width=width, height=height)

    assert len(lines) <= height
    assert all(text.cell_len <= width for text in lines)
    assert lines[0].plain.strip() == "peaks in GB: █ measured, ░ theory"


def test_a_terminal_smaller_than_asked_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(CAST)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "5")

    assert drawn(CAST) == expected
