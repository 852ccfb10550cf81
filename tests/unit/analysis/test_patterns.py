"""Patterns of loads, recognised from events made by hand: what is no pattern must not be taken for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from run_events import MIB, MS, begin, phase, release

from meminspect.analysis.own_code import OwnCode, own_rows
from meminspect.analysis.patterns import patterns
from meminspect.capture.records import Event, Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8 * MIB  # of a tensor in float32
NAMES = ("one", "two", "three", "four")
END = 1000


class Tape:
    """Events in their order, a millisecond each."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def phase(self, name: str) -> None:
        self.events.append(phase(self._now, name))

    def made(self, name: str, dtype: str, *, pool: Pool = Pool.HEAP, file: int = -1) -> Event:
        nbytes = SIZE if dtype == "float32" else SIZE // 4 if dtype == "int8" else SIZE // 2
        event = begin(self._now, Operation.MATERIALISE, pool, len(self.events) + 1, name, nbytes, file=file)
        self.events.append(event := event._replace(detail=f"{dtype} [8]"))
        return event

    def copied(self, name: str, words: str) -> None:
        event = begin(self._now, Operation.COPY, Pool.NONE, len(self.events) + 1, name, SIZE // 2, file=-1)
        self.events.append(event._replace(detail=f"{words} [8]"))

    def done(self, name: str, operation: Operation) -> None:
        self.events.append(begin(self._now, operation, Pool.NONE, len(self.events) + 1, name, SIZE // 2, file=-1))

    def released(self, event: Event) -> None:
        self.events.append(release(self._now, event))

    @property
    def _now(self) -> int:
        return 10 + len(self.events)

    def found(self) -> dict[str, int]:
        return {one.id: one.nbytes for one in patterns(self.code())}

    def code(self) -> OwnCode:
        return OwnCode.of(self.events, 0, END * MS)

    def bill(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for _, _, _, item, _, nbytes in own_rows(self.code()):
            sums[item] = sums.get(item, 0) + nbytes
        return sums


def naive(tape: Tape) -> Iterator[Event]:
    """A model in float32 into which a state dict in float16 is copied; yields what was read."""
    tape.phase("build")
    for name in NAMES:
        tape.made(name, "float32")
    tape.phase("read")
    read = [tape.made(name, "float16", file=0) for name in NAMES]
    tape.phase("copy")
    for name in NAMES:
        tape.copied(name, "float16 → float32")
    yield from read


def test_a_naive_load_overwrites_random_weights_holds_the_state_dict_and_is_wider_than_need_be() -> None:
    tape = Tape()
    for event in naive(tape):
        tape.released(event)

    assert tape.found() == {
        "random_initialisation_overwritten": 4 * SIZE, "whole_state_dict_held": 2 * SIZE, "float32_detour": 2 * SIZE,
    }  # fmt: skip
    assert tape.bill() == {"floor": 2 * SIZE, "dtype upcast": 2 * SIZE, "duplicate state dict": 2 * SIZE}


def test_where_each_tensor_goes_before_the_next_is_read_no_whole_state_dict_is_held() -> None:
    tape = Tape()
    tape.phase("build")
    for name in NAMES:
        tape.made(name, "float32")
    for name in NAMES:
        read = tape.made(name, "float16", file=0)
        tape.copied(name, "float16 → float32")
        tape.released(read)

    assert set(tape.found()) == {"random_initialisation_overwritten", "float32_detour"}


def test_what_is_assigned_as_it_was_read_is_no_pattern() -> None:
    tape = Tape()
    tape.phase("read")
    for name in NAMES:
        tape.made(name, "float16", file=0)
    tape.phase("assign")
    for name in NAMES:
        tape.done(name, Operation.ASSIGN)

    assert tape.found() == {}
    assert tape.bill() == {"floor": 2 * SIZE}


def test_a_built_model_that_nothing_is_copied_into_is_no_pattern() -> None:
    tape = Tape()
    tape.phase("build")
    for name in NAMES:
        tape.made(name, "float32")

    assert tape.found() == {}
    assert tape.bill() == {"floor": 4 * SIZE}


def test_a_mapping_that_is_kept_until_all_of_it_is_cast_is_one() -> None:
    tape = Tape()
    tape.phase("read")
    mapped = [tape.made(name, "float16", pool=Pool.FILE, file=0) for name in NAMES]
    tape.phase("cast")
    for name in NAMES:
        tape.made(name, "float32")
    for event in mapped:
        tape.released(event)
    tape.phase("assign")
    for name in NAMES:
        tape.done(name, Operation.ASSIGN)

    assert tape.found() == {"mapping_kept_while_copying": 2 * SIZE, "float32_detour": 2 * SIZE}


def test_mappings_that_are_closed_in_turn_are_none() -> None:
    tape = Tape()
    tape.phase("read")
    for file, name in enumerate(NAMES):
        mapped = tape.made(name, "float16", pool=Pool.FILE, file=file)
        tape.phase("copy")
        tape.made(name, "float16")
        tape.released(mapped)

    assert tape.found() == {}


def test_a_detour_that_ends_narrow_is_told_from_one_that_stays() -> None:
    stays, returns = Tape(), Tape()
    for tape in (stays, returns):
        list(naive(tape))
    returns.phase("cast")
    for name in NAMES:
        returns.made(name, "float16")

    words = [
        next(one.words for one in patterns(tape.code()) if one.id == "float32_detour") for tape in (stays, returns)
    ]
    assert words[0].endswith(", and it stayed so")
    assert words[1].endswith(", and was made narrow again only afterwards")


def test_what_is_quantised_when_all_is_there_is_one_and_what_is_quantised_as_it_comes_is_none() -> None:
    after, lazily = Tape(), Tape()
    list(naive(after))
    after.phase("build")
    for name in NAMES:
        after.made(f"Quantised.{name}", "int8")
    lazily.phase("read")
    for name in NAMES:
        read = lazily.made(name, "float16", file=0)
        lazily.made(f"{name}.quantised", "int8")
        lazily.released(read)

    assert after.found()["quantised_after_loading"] == 4 * SIZE
    assert "quantised_after_loading" not in lazily.found()


def test_what_happened_outside_the_window_does_not_count() -> None:
    tape = Tape()
    list(naive(tape))

    assert patterns(OwnCode.of(tape.events, END * MS, 2 * END * MS)) == []
