from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from run_events import MS, baseline, begin, end, phase, reading, release

from meminspect.analysis.live import bill, place_at, tensors_materialised
from meminspect.capture.records import Event, Operation, Pool
from meminspect.theory.ledger import BillLine, Item

MATERIALISE, COPY, TOUCH = Operation.MATERIALISE, Operation.COPY, Operation.TOUCH
HEAP, FILE, NONE = Pool.HEAP, Pool.FILE, Pool.NONE


def lines(bill_lines: tuple[BillLine, ...]) -> dict[tuple[str, str], int]:
    return {(line.item, line.pool): line.nbytes for line in bill_lines}


def naive_run() -> list[Event]:
    """A model of two tensors is built, its first one is read and copied in."""
    built = [begin(12, MATERIALISE, HEAP, 1, "a", 400), begin(14, MATERIALISE, HEAP, 2, "b", 40)]
    read = begin(17, MATERIALISE, HEAP, 3, "a", 200)
    copied = begin(20, COPY, NONE, 4, "a", 200)
    return [
        baseline(10), phase(11, "build"),
        built[0], end(13, built[0]), built[1], end(15, built[1]), phase(16, "read"),
        read, end(18, read), phase(19, "copy"), copied, end(21, copied), release(22, read), phase(23, "finalise"),
    ]  # fmt: skip


NAIVE_LEDGER = [
    ("build", "materialise", "heap", Item.FLOOR, "a", 200),
    ("build", "materialise", "heap", Item.UPCAST, "a", 200),
    ("build", "materialise", "heap", Item.FLOOR, "b", 40),
    ("read", "materialise", "heap", Item.DUPLICATE, "a", 200),
    ("copy", "copy", "none", "", "a", 200),
    ("copy", "release", "heap", Item.DUPLICATE, "a", 200),
]


def test_before_the_first_event_one_is_nowhere() -> None:
    assert place_at(naive_run(), 5 * MS, 10 * MS) == (None, None)


def test_a_place_is_the_phase_and_the_tensor_in_flight_or_the_last_one() -> None:
    events = naive_run()
    assert place_at(events, int(12.5 * MS), 10 * MS) == ("build", "a")
    assert place_at(events, int(13.5 * MS), 10 * MS) == ("build", "a")
    assert place_at(events, 15 * MS, 10 * MS) == ("build", "b")
    assert place_at(events, int(16.5 * MS), 10 * MS) == ("read", None)
    assert place_at(events, 99 * MS, 10 * MS) == ("finalise", None)


def test_a_mark_found_as_a_tensor_ends_is_that_tensors() -> None:
    assert place_at(naive_run(), 18 * MS, 10 * MS) == ("read", "a")


def test_a_mark_found_as_a_phase_begins_was_set_in_the_one_before() -> None:
    """A mark is of the time before its reading: nothing has happened yet in a phase that begins with it."""
    assert place_at(naive_run(), 19 * MS, 10 * MS) == ("read", "a")


def test_a_mark_found_as_a_tensor_begins_is_not_that_tensors() -> None:
    assert place_at(naive_run(), 14 * MS, 10 * MS) == ("build", "a")


def test_tensors_that_got_memory_are_counted_by_name() -> None:
    assert tensors_materialised(naive_run()) == 2
    assert tensors_materialised([]) == 0


def test_a_bill_files_what_is_in_memory_under_the_theorys_items_and_the_rest_as_unexplained() -> None:
    found = bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 700)
    assert lines(found) == {
        (Item.FLOOR, "heap"): 240,
        (Item.UPCAST, "heap"): 200,
        (Item.DUPLICATE, "heap"): 200,
        (Item.UNEXPLAINED, ""): 60,
    }
    assert found[-1].item == Item.UNEXPLAINED


def test_of_tensors_without_readings_of_their_own_the_last_that_can_be_told_makes_the_peak() -> None:
    mib = 1 << 20
    big, tiny = begin(12, TOUCH, FILE, 1, "output.weight", 30 * mib), begin(14, TOUCH, FILE, 2, "rope.freqs", 64)
    events = [baseline(10), phase(11, "touch"), big, end(13, big), tiny, end(15, tiny)]
    assert place_at(events, 16 * MS, 10 * MS) == ("touch", "output.weight")
    # but not where a reading lies between them, nor where there is no other
    read_between = [*events[:3], end(13, big, reading(file=30 * mib)), *events[4:]]
    assert place_at(read_between, 16 * MS, 10 * MS) == ("touch", "rope.freqs")
    assert place_at([*events[:2], *events[4:]], 16 * MS, 10 * MS) == ("touch", "rope.freqs")


def test_what_the_allocator_keeps_is_a_line_where_it_is_worth_one() -> None:
    mib = 1 << 20
    kept = bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 640 + 3 * mib, retained_bytes=2 * mib)
    assert lines(kept)[Item.RETAINED, "heap"] == 2 * mib
    assert lines(kept)[Item.UNEXPLAINED, ""] == mib
    little = bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 640, retained_bytes=mib - 1)
    assert (Item.RETAINED, "heap") not in lines(little)


def test_what_the_allocator_keeps_and_nobody_has_written_to_is_in_no_memory() -> None:
    mib = 1 << 20
    found = bill(
        naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 640 + 2 * mib, retained_bytes=60 * mib,
        heap_bytes=640 + 2 * mib,
    )  # fmt: skip
    assert (lines(found)[Item.RETAINED, "heap"], lines(found)[Item.UNEXPLAINED, ""]) == (2 * mib, 0)


def test_what_was_released_before_the_allocator_was_asked_is_not_counted_twice() -> None:
    mib = 1 << 20
    big = begin(17, MATERIALISE, HEAP, 3, "a", 30 * mib)
    events = [baseline(10), phase(16, "read", reading()), big, end(18, big), release(22, big), phase(23, "later")]
    ledger = [("read", "materialise", "heap", Item.STAGING, "a", 30 * mib)]

    def found(fallen_mib: int | None) -> dict[tuple[str, str], int]:
        fallen = None if fallen_mib is None else fallen_mib * mib
        return lines(bill(events, ledger, 23 * MS, 10 * MS, 32 * mib, retained_bytes=32 * mib, fallen_bytes=fallen))

    all_kept, half_kept, of_another_moment = found(0), found(15), found(None)

    assert all_kept == {(Item.STAGING, "heap"): 30 * mib, (Item.RETAINED, "heap"): 2 * mib, (Item.UNEXPLAINED, ""): 0}
    assert half_kept[Item.RETAINED, "heap"] == 17 * mib
    assert of_another_moment[Item.RETAINED, "heap"] == 32 * mib


def test_what_the_allocators_have_in_use_beside_tensors_is_a_line_where_it_is_worth_one() -> None:
    mib = 1 << 20
    many = bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 640 + 3 * mib, used_bytes=640 + 2 * mib)
    assert lines(many)[Item.OBJECTS, "heap"] == 2 * mib
    assert lines(many)[Item.UNEXPLAINED, ""] == mib
    for used_bytes in (None, 0, 640 + mib - 1):  # nobody has asked; it knows of no tensors; next to nothing
        few = bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 640, used_bytes=used_bytes)
        assert (Item.OBJECTS, "heap") not in lines(few)


def test_what_has_been_released_is_on_no_bill() -> None:
    events = sorted([*naive_run(), phase(22.4, "later", reading(heap=440))], key=lambda event: event.t_ns)
    assert (Item.DUPLICATE, "heap") not in lines(bill(events, NAIVE_LEDGER, int(22.5 * MS), 10 * MS, 440))


def test_less_than_explained_is_a_negative_remainder() -> None:
    assert lines(bill(naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 600))[Item.UNEXPLAINED, ""] == -40


def test_what_the_ledger_does_not_know_stays_unexplained() -> None:
    assert lines(bill(naive_run(), [], int(21.5 * MS), 10 * MS, 640)) == {(Item.UNEXPLAINED, ""): 640}


def test_events_from_before_the_baseline_are_not_of_the_run() -> None:
    events = [begin(5, MATERIALISE, HEAP, 9, "a", 5000), *naive_run()]
    assert bill(events, NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 700) == bill(
        naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 700
    )


def test_sizes_come_from_the_events_and_only_their_proportions_from_the_ledger() -> None:
    tripled = [(*row[:5], row[5] * 3) for row in NAIVE_LEDGER]
    assert bill(naive_run(), tripled, int(21.5 * MS), 10 * MS, 700) == bill(
        naive_run(), NAIVE_LEDGER, int(21.5 * MS), 10 * MS, 700
    )


def test_a_mapping_is_on_the_bill_from_its_first_touch_until_its_files_last_tensor_goes() -> None:
    # given two mapped tensors of one file, of which one has been copied from
    mapped = [begin(12, MATERIALISE, FILE, 1, "a", 100), begin(13, MATERIALISE, FILE, 2, "b", 50)]
    copied = begin(15, COPY, NONE, 3, "a", 100)
    events = [
        baseline(10), phase(11, "read"), *mapped, phase(14, "copy"), copied, end(16, copied),
        release(20, mapped[0]), release(30, mapped[1]), phase(32, "later", reading()),
    ]  # fmt: skip
    ledger = [
        ("read", "materialise", "file", Item.SHARD, "a", 100),
        ("copy", "touch", "file", Item.SHARD, "a", 100),
        ("copy", "touch", "file", Item.SHARD, "b", 50),
    ]

    def shard_at(t_ms: float) -> int:
        return lines(bill(events, ledger, int(t_ms * MS), 10 * MS, 100)).get((Item.SHARD, "file"), 0)

    assert [shard_at(t) for t in (14.5, 15.5, 25, 35)] == [0, 100, 100, 0]


def test_memory_that_is_only_reserved_is_on_the_bill_when_it_is_written_to() -> None:
    # given `to_empty`, which reserves 50, and a copy of what has been read
    reserved = begin(11, Operation.MATERIALISE, Pool.NONE, 1, "w", 50)
    read = begin(13, Operation.MATERIALISE, Pool.HEAP, 2, "w", 30)
    copied = begin(15, Operation.COPY, Pool.NONE, 3, "w", 30)
    events = [
        baseline(), phase(11, "build"), reserved, end(11.5, reserved), phase(12, "read"), read, end(14, read),
        phase(14.5, "copy"), copied, end(16, copied),
    ]  # fmt: skip
    ledger = [
        ("build", "materialise", "none", "", "w", 50), ("read", "materialise", "heap", "duplicate", "w", 30),
        ("copy", "touch", "heap", "floor", "w", 50),
    ]  # fmt: skip

    before, after = (lines(bill(events, ledger, int(t_ms * MS), 10 * MS, 80)) for t_ms in (14.2, 17))

    assert before == {("duplicate", "heap"): 30, ("unexplained", ""): 50}
    assert after == {("duplicate", "heap"): 30, ("floor", "heap"): 50, ("unexplained", ""): 0}


def test_a_bill_of_a_mark_that_was_read_after_a_release_has_what_was_released() -> None:
    """Small tensors get no reading of their own: the mark of a shard is read when the next phase begins."""
    model = begin(12, MATERIALISE, HEAP, 1, "a", 400)
    shard = begin(14, MATERIALISE, HEAP, 2, "a", 200)
    events = [
        baseline(10), phase(11, "build", reading()), model, end(13, model),
        phase(13, "read", reading(heap=400)), shard, end(15, shard), release(16, shard),
        phase(17, "read", reading(heap=400, mark=600)),
    ]  # fmt: skip
    ledger = [
        ("build", "materialise", "heap", Item.FLOOR, "a", 400),
        ("read", "materialise", "heap", Item.SHARD, "a", 200),
    ]
    found = lines(bill(events, ledger, 17 * MS, 10 * MS, 600))
    assert found == {(Item.FLOOR, "heap"): 400, (Item.SHARD, "heap"): 200, (Item.UNEXPLAINED, ""): 0}


@given(st.integers(9, 30), st.integers(-1000, 5000), st.lists(st.sampled_from(NAIVE_LEDGER), max_size=8))
def test_a_bill_always_sums_to_the_measurement(
    t_ms: int, peak: int, ledger: list[tuple[str, str, str, str, str, int]]
) -> None:
    found = bill(naive_run(), ledger, t_ms * MS, 10 * MS, peak)
    assert sum(line.nbytes for line in found) == peak


MAPPED_LEDGER = [
    ("read", "touch", "file", Item.FLOOR, "a", 600),
    ("read", "touch", "file", Item.STAGING, "b", 200),
    ("copy", "materialise", "heap", Item.FLOOR, "c", 300),
]


def mapped_run() -> list[Event]:
    """Two tensors are mapped and touched, then a third gets memory."""
    a, b = begin(12, MATERIALISE, FILE, 1, "a", 600), begin(13, MATERIALISE, FILE, 2, "b", 200)
    touched = [begin(14, TOUCH, FILE, 3, "a", 600), begin(15, TOUCH, FILE, 4, "b", 200)]
    return [
        baseline(10),
        phase(11, "read"),
        a,
        b,
        *touched,
        phase(16, "copy"),
        begin(17, MATERIALISE, HEAP, 5, "c", 300),
    ]


def test_given_a_limited_room_then_touched_pages_are_there_only_as_far_as_heap_leaves_it() -> None:
    free = lines(bill(mapped_run(), MAPPED_LEDGER, 20 * MS, 10 * MS, 1100))
    held = lines(bill(mapped_run(), MAPPED_LEDGER, 20 * MS, 10 * MS, 695, room_bytes=700))
    assert free == {("floor", "file"): 600, ("floor", "heap"): 300, ("staging", "file"): 200, ("unexplained", ""): 0}
    # 700 are full before there is any heap, and no more can be resident later
    assert held == {("floor", "file"): 525, ("staging", "file"): 175, ("unexplained", ""): -5}


def test_given_heap_that_fills_the_room_then_no_page_is_left() -> None:
    held = lines(bill(mapped_run(), MAPPED_LEDGER, 20 * MS, 10 * MS, 310, room_bytes=250))
    assert held == {("floor", "heap"): 300, ("unexplained", ""): 10}
