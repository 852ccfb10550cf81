from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meminspect.analysis.verdict import PROCESS_BYTES, Candidate, recommend, unreclaimable_bytes, verdict
from meminspect.theory.ledger import Pools, Theory
from meminspect.units import use_decimal

if TYPE_CHECKING:
    from meminspect.analysis.verdict import Aim

GIB = 1 << 30


def theory(
    heap: int = 0, file: int = 0, *, pinned: int = 0, vram: int | None = None, total: int | None = None
) -> Theory:
    peak = Pools(heap, file, pinned, vram, vram)
    return Theory(heap, peak, heap + file + pinned if total is None else total, peak)


@pytest.mark.parametrize(
    ("heap", "expected"),
    [(0, "fits"), (900, "fits"), (901, "tight"), (1000, "tight"), (1001, "does_not_fit")],
)
def test_heap_has_to_fit_and_is_tight_beyond_nine_tenths(heap: int, expected: str) -> None:
    assert verdict(theory(heap), PROCESS_BYTES + 1000) == expected


@pytest.mark.parametrize(("file", "expected"), [(1000, "fits"), (1001, "tight"), (50_000, "tight")])
def test_file_pages_alone_never_keep_a_load_from_completing(file: int, expected: str) -> None:
    assert verdict(theory(file=file), PROCESS_BYTES + 1000) == expected


def test_heap_and_file_pages_together_thrash_the_page_cache() -> None:
    assert verdict(theory(600, 400), PROCESS_BYTES + 1000) == "fits"
    assert verdict(theory(600, 401), PROCESS_BYTES + 1000) == "tight"


def test_pools_that_peak_at_different_moments_are_not_added_up() -> None:
    assert verdict(theory(600, 600, total=900), PROCESS_BYTES + 1000) == "fits"


def test_pinned_memory_counts_like_heap() -> None:
    assert verdict(theory(600, pinned=401), PROCESS_BYTES + 1000) == "does_not_fit"
    assert unreclaimable_bytes(Pools(600, 5, 401)) == 1001


def test_unknown_pools_count_as_nothing() -> None:
    assert unreclaimable_bytes(Pools(None, None, None)) == 0


@pytest.mark.parametrize(("vram", "expected"), [(400, "fits"), (501, "tight"), (601, "does_not_fit")])
def test_where_host_and_device_share_one_memory_they_have_one_budget(vram: int, expected: str) -> None:
    assert verdict(theory(400, vram=vram), PROCESS_BYTES + 1000, shared=True) == expected


def test_where_host_and_device_share_one_memory_the_page_cache_counts_beside_the_copy() -> None:
    assert verdict(theory(file=500, vram=500), PROCESS_BYTES + 1000, shared=True) == "fits"
    assert verdict(theory(file=501, vram=500), PROCESS_BYTES + 1000, shared=True) == "tight"


def test_without_a_budget_there_is_no_verdict() -> None:
    assert verdict(theory(1), None) is None


def test_device_memory_has_a_budget_of_its_own() -> None:
    assert verdict(theory(1, vram=900), PROCESS_BYTES + 1000, 1000) == "fits"
    assert verdict(theory(1, vram=901), PROCESS_BYTES + 1000, 1000) == "tight"
    assert verdict(theory(1, vram=1001), PROCESS_BYTES + 1000, 1000) == "does_not_fit"
    assert verdict(theory(1, vram=1), PROCESS_BYTES + 1000, None) is None
    assert verdict(theory(1), PROCESS_BYTES + 1000, 0) == "fits"


def test_nothing_fits_into_nothing_except_nothing() -> None:
    assert verdict(theory(), PROCESS_BYTES) == "fits"
    assert verdict(theory(1), PROCESS_BYTES) == "does_not_fit"


def test_a_better_verdict_goes_before_less_heap() -> None:
    mapped = Candidate("mmap-assign", theory(100, 2000), "tight")
    read = Candidate("meta-assign", theory(500), "fits")

    assert recommend([mapped, read]).strategy_id == "meta-assign"


def test_among_equals_the_least_heap_then_the_least_in_total_then_the_order_decides() -> None:
    first, second = Candidate("a", theory(5, 20), "fits"), Candidate("b", theory(5, 10), "fits")

    assert recommend([first, second]).strategy_id == "b"
    assert recommend([first, second, Candidate("c", theory(4, 90), "fits")]).strategy_id == "c"
    assert recommend([second, second._replace(strategy_id="later")]).strategy_id == "b"


def test_the_reason_says_what_it_needs_and_saves() -> None:
    naive = Candidate("naive", theory(3 * GIB), "fits")

    assert recommend([naive, Candidate("mmap-assign", theory(0, GIB), "fits")]).why == (
        "no heap, 3.00 GiB of heap less than naive; the 1.00 GiB mapping can be dropped under pressure"
    )
    assert recommend([naive, Candidate("meta-assign", theory(GIB), "tight")]).strategy_id == "naive"
    assert recommend([naive]).why == "3.00 GiB of heap"
    use_decimal(True)
    assert recommend([naive]).why == "3.22 GB of heap"


def test_the_reason_compares_totals_where_the_heap_is_the_same() -> None:
    naive = Candidate("naive", theory(GIB, GIB), "fits")

    assert recommend([Candidate("x", theory(GIB), "fits"), naive]).why.endswith("1.00 GiB less than naive in total")
    assert "1.00 GiB of heap, as much as naive;" in recommend([Candidate("x", theory(GIB, GIB), "fits"), naive]).why


def test_a_tight_one_is_recommended_with_a_warning() -> None:
    recommendation = recommend([Candidate("x", theory(95), "tight"), Candidate("naive", theory(300), "does_not_fit")])

    assert recommendation == (
        "x",
        "95 B of heap, 205 B of heap less than naive; but nothing fits with room to spare",
    )


def test_pages_that_find_no_room_are_said_to_be_read_over_and_over() -> None:
    recommendation = recommend([Candidate("x", theory(0, 2000), "tight"), Candidate("naive", theory(300), "tight")])

    assert recommendation.strategy_id == "x"
    assert recommendation.why.endswith("its pages find no room at once and are read from disk over and over")


def test_what_does_not_fit_is_never_recommended() -> None:
    recommendation = recommend(
        [Candidate("x", theory(200), "does_not_fit"), Candidate("y", theory(300), "does_not_fit")]
    )

    assert recommendation == (None, "no strategy fits: even x needs 200 B of heap")


def test_without_verdicts_the_lightest_is_recommended() -> None:
    assert recommend([Candidate("x", theory(2), None), Candidate("y", theory(1), None)]).strategy_id == "y"


@pytest.mark.parametrize(("aim", "expected"), [("heap", "a"), ("vram", "b"), ("resident", "c")])
def test_among_what_fits_the_aim_decides(aim: Aim, expected: str) -> None:
    moved = {"a": 300, "b": 200, "c": 100}
    theories = {"a": theory(1, vram=30), "b": theory(2, vram=10), "c": theory(3, vram=20)}
    candidates = [Candidate(id_, replace(theories[id_], moved_bytes=moved[id_]), "fits") for id_ in "abc"]
    assert recommend(candidates, aim).strategy_id == expected
    # and a better verdict goes before it
    worse = [one._replace(verdict="tight" if one.strategy_id == expected else "fits") for one in candidates]
    assert recommend(worse, aim).strategy_id != expected


def test_on_a_device_its_memory_is_told_first_and_what_is_saved_of_it() -> None:
    naive = Candidate("naive", theory(GIB, vram=12 * GIB), "fits")
    found = recommend([naive, Candidate("x", theory(GIB, vram=6 * GIB), "fits")], "vram")
    assert found == ("x", "6.00 GiB of device memory and 1.00 GiB of heap, 6.00 GiB of device memory less than naive")


def test_what_saves_next_to_nothing_of_it_is_not_preferred_to_what_needs_less_of_the_rest() -> None:
    package = Candidate("x", theory(GIB, vram=100 * GIB), "fits")
    plain = Candidate("y", theory(0, vram=102 * GIB), "fits")
    assert recommend([package, plain], "vram").strategy_id == "y"
    assert recommend([package, Candidate("y", theory(0, vram=103 * GIB), "fits")], "vram").strategy_id == "x"


def test_of_what_does_not_fit_the_very_least_is_told() -> None:
    candidates = [Candidate("x", theory(101), "does_not_fit"), Candidate("y", theory(100, 5), "does_not_fit")]
    assert recommend(candidates).why == "no strategy fits: even y needs 100 B of heap"


def test_page_locked_memory_is_called_that() -> None:
    found = recommend([Candidate("x", theory(0, pinned=GIB, vram=GIB), "fits")], "vram")
    assert found.why == "1.00 GiB of device memory and 1.00 GiB page-locked"


def test_for_the_soonest_resident_it_is_told_how_much_less_is_moved() -> None:
    naive = Candidate("naive", replace(theory(GIB), moved_bytes=3 * GIB), "fits")
    found = recommend([naive, Candidate("x", replace(theory(GIB), moved_bytes=GIB), "fits")], "resident")
    assert found.why == "1.00 GiB of heap, 2.00 GiB less to move until it is resident than naive"


def test_without_candidates_nothing_is_recommended() -> None:
    assert recommend([]).strategy_id is None
