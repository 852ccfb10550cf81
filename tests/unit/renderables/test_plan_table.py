from __future__ import annotations

import pytest
from rich.cells import cell_len

from meminspect.analysis.plan import Plan, PlanRow
from meminspect.analysis.verdict import Candidate, recommend, verdict
from meminspect.renderables.plan_table import PlanTable
from meminspect.strategies import STRATEGIES
from meminspect.theory.ledger import BillLine, Pools, Theory
from meminspect.units import use_decimal

GIB = 1 << 30
HEAVY = Theory(
    GIB, Pools(3 * GIB), 3 * GIB, Pools(GIB), (BillLine("floor", "heap", GIB), BillLine("shard", "heap", 2 * GIB))
)
MAPPED = Theory(GIB, Pools(0, GIB), GIB, Pools(0, GIB), (BillLine("floor", "file", GIB),))


def plan(ram: int | None = 2 * GIB) -> Plan:
    naive, mapped, refused = STRATEGIES["naive"], STRATEGIES["mmap-assign"], STRATEGIES["sharded"]
    rows = (
        PlanRow(mapped, None, verdict(MAPPED, ram), MAPPED),
        PlanRow(naive, None, verdict(HEAVY, ram), HEAVY),
        PlanRow(refused, "it has \x1b[31m", None, None),
    )
    candidates = [Candidate(row.strategy.id, row.theory, row.verdict) for row in rows if row.theory]
    return Plan(rows, recommend(candidates), ram, None)


def lines(ram: int | None = 2 * GIB, *, width: int = 80, ascii_only: bool = False) -> list[str]:
    table = PlanTable(plan(ram), width=width, ascii_only=ascii_only)
    return [line.plain for line in table.lines()]


def test_a_plan_is_a_picture_with_a_bill_for_each_strategy() -> None:
    assert lines() == [
        "  strategy       peak heap    peak file  0             2.00 GiB",
        "★ mmap-assign          0 B     1.00 GiB  ░░░░░░░░░░░          │     fits",
        "    = 1.00 GiB floor (file)",
        "  naive           3.00 GiB          0 B  █████████████████████┿██▶  does not fit",
        "    = 1.00 GiB floor + 2.00 GiB shard",
        "  sharded      not available: it has \\x1b[31m",
        "  █ cannot be reclaimed  ░ can be reclaimed  │ usable memory",
    ]


def test_without_unicode_it_is_drawn_in_ascii() -> None:
    drawn = "\n".join(lines(ascii_only=True))

    assert ":::::::::::          |     fits" in drawn
    assert "#####################+##>  does not fit" in drawn


def test_a_narrow_terminal_loses_the_bar_first_then_the_columns_that_the_bills_repeat() -> None:
    assert lines(width=60)[0] == "  strategy       peak heap    peak file"
    assert lines(width=60)[1] == "★ mmap-assign          0 B     1.00 GiB  fits"
    assert "GiB  " not in lines(width=30)[1]
    assert lines(width=30)[1].endswith("  fits")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for line in "\n".join(lines(width=width)).splitlines():
        if "not available" not in line and "usable memory" not in line:
            assert cell_len(line) <= width


def test_without_a_budget_there_is_no_ceiling_and_no_verdict() -> None:
    assert lines(None)[3].endswith("█" * 24)
    assert "│" not in "".join(lines(None))


def test_decimal_units_are_written_everywhere() -> None:
    use_decimal(True)
    assert "GiB" not in "".join(lines())
    assert "1.07 GB" in lines()[1]
