"""Smallest limits in words and as a table, to the letter."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.theme import Theme

from meminspect.renderables.fit_table import fit_sentence, fit_table
from meminspect.renderables.palette import STYLES

GIB = 1 << 30


def a_fit(strategy: str = "meta-assign", **changes: Any) -> dict[str, Any]:
    found = {
        "strategy": strategy, "answer": "found", "message": "", "limit_bytes": 3 * GIB, "dies_at_bytes": 11 * GIB // 4,
        "completes_at_bytes": 3 * GIB, "theory_bytes": 5 * GIB // 2, "usable_bytes": 16 * GIB,
        "difference_bytes": GIB // 2, "resident_s": 3.0, "unlimited_resident_s": 2.0, "slowdown": 1.5,
    }  # fmt: skip
    return {**found, **changes}


UNKNOWN = dict.fromkeys(
    ("limit_bytes", "dies_at_bytes", "completes_at_bytes", "difference_bytes", "resident_s", "unlimited_resident_s",
     "slowdown")
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "meta-assign needs a limit of 3.00 GiB; theory 2.50 GiB, and takes 1.5 × as long there"),
        (
            {"slowdown": 0.9},
            "meta-assign needs a limit of 3.00 GiB; theory 2.50 GiB, and takes as long there as without one",
        ),
        ({"slowdown": None, "message": "so what"}, "meta-assign needs a limit of 3.00 GiB; theory 2.50 GiB; so what"),
        (
            {**UNKNOWN, "answer": "does_not_suffice"},
            "meta-assign: 16.00 GiB, all that this machine can give, does not suffice; theory 2.50 GiB",
        ),
        ({**UNKNOWN, "answer": "failed", "message": "no such model"}, "meta-assign: no such model"),
        (
            {"answer": "interrupted"},
            "meta-assign: interrupted; it dies at 2.75 GiB and completes at 3.00 GiB; theory 2.50 GiB",
        ),
        ({**UNKNOWN, "answer": "interrupted"}, "meta-assign: interrupted; theory 2.50 GiB"),
    ],
)
def test_an_answer_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert fit_sentence(a_fit(**changes)) == sentence


def test_strategies_are_rows_in_one_unit() -> None:
    file = io.StringIO()
    fits = [a_fit(), a_fit("mmap-assign", difference_bytes=-GIB // 4), a_fit("naive", **UNKNOWN, theory_bytes=None)]
    Console(file=file, width=80, theme=Theme(STYLES)).print(fit_table(fits))
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "limits in GiB dies completes theory  diff time there no limit × time",
        "meta-assign   2.75      3.00   2.50 +0.50     3.00 s   2.00 s   1.50",
        "mmap-assign   2.75      3.00   2.50 -0.25     3.00 s   2.00 s   1.50",
        "naive            –         –      –     –          –        –      –",
    ]
