from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meminspect.engine import cache_watch
from meminspect.engine.cache_watch import CacheWatch

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class FakeFile:
    """A file whose share is what the test says, and that counts how often it was asked."""

    shares: dict[str, list[int | None]]
    closed: list[str]

    def __init__(self, path: Path) -> None:
        if path.name == "absent":
            raise FileNotFoundError(path)
        self.name = path.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.closed.append(self.name)

    def cached_bytes(self) -> int | None:
        shares = self.shares[self.name]
        if not shares:
            raise OSError("gone")
        return shares.pop(0) if len(shares) > 1 else shares[0]


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int | None]]:
    """What each file will answer, in turn; the last for ever."""
    monkeypatch.setattr(FakeFile, "shares", {}, raising=False)
    monkeypatch.setattr(FakeFile, "closed", [], raising=False)
    monkeypatch.setattr(cache_watch, "OpenFile", FakeFile)
    return FakeFile.shares


def watched(*names: str, rounds: int = 0) -> CacheWatch:
    """Watch without a thread: so many rounds without waiting, and the last look."""
    watch = CacheWatch([Path(name) for name in names])

    class Stop:
        left = rounds

        def wait(self, _: float) -> bool:
            self.left -= 1
            return self.left < 0

    watch._stop_requested = Stop()  # type: ignore[assignment]
    watch.run()
    assert watch.failure is None
    return watch


def rows(watch: CacheWatch) -> list[tuple[int, int]]:
    return [(row.file, row.cached_bytes) for row in watch.take()]


def test_given_shares_that_change_and_one_that_does_not_then_there_is_a_row_for_each_change(
    shares: dict[str, list[int | None]],
) -> None:
    shares.update(a=[0, 10, 10, 30], b=[7])

    watch = watched("a", "b", rounds=3)

    assert rows(watch) == [(0, 0), (1, 7), (0, 10), (0, 30)]
    assert rows(watch) == []
    assert FakeFile.closed == ["b", "a"]


def test_given_a_watch_that_is_stopped_at_once_then_every_file_has_been_looked_at(
    shares: dict[str, list[int | None]],
) -> None:
    shares.update(a=[1], b=[2])
    assert rows(watched("a", "b")) == [(0, 1), (1, 2)]


def test_given_files_that_nobody_may_see_or_that_are_not_there_then_they_have_no_rows_and_the_rest_keep_their_numbers(
    shares: dict[str, list[int | None]],
) -> None:
    shares.update(hidden=[None], gone=[], seen=[5])
    assert rows(watched("absent", "hidden", "gone", "seen", rounds=2)) == [(3, 5)]


def test_given_files_that_are_dear_to_ask_then_a_round_asks_one_and_the_next_goes_on(
    shares: dict[str, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_watch, "_ROUND_S", -1.0)
    shares.update(a=[1, 2, 9], b=[3, 4, 9], c=[5, 9])

    assert rows(watched("a", "b", "c", rounds=4)) == [(0, 1), (1, 3), (2, 5), (0, 2), (0, 9), (1, 4), (2, 9)]


def test_given_what_a_round_took_then_the_wait_is_so_many_times_as_long_and_longer_where_nothing_has_changed(
    shares: dict[str, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares.update(a=[1])
    moments = itertools.cycle([10.0, 10.0, 10.5])  # begin, the end of a file, the end of the round
    monkeypatch.setattr(cache_watch.time, "monotonic", lambda: next(moments))
    waits: list[float] = []
    watch = CacheWatch([Path("a")])

    class Stop:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 2

    watch._stop_requested = Stop()  # type: ignore[assignment]
    watch.run()

    assert waits == [0.0, 200.0, 1000.0]


def test_given_a_failure_in_the_thread_then_whoever_joins_finds_it(
    shares: dict[str, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares.update(a=[1])

    def breaks(_: FakeFile) -> int:
        raise ValueError("broken")

    monkeypatch.setattr(FakeFile, "cached_bytes", breaks)
    watch = CacheWatch([Path("a")])
    watch.start()
    watch.stop()
    watch.stop()  # again is harmless
    assert isinstance(watch.failure, ValueError)


def test_given_real_files_then_their_share_in_the_page_cache_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 10_000)
    watch = CacheWatch([path])
    watch.start()
    watch.stop()
    assert rows(watch) == [(0, 10_000)]
    assert watch.cpu_s > 0
