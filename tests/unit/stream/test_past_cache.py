from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from meminspect.errors import StreamError
from meminspect.page_cache import cached_fraction, evict
from meminspect.stream import files, load, past_cache
from meminspect.stream.past_cache import Ways, sectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


def test_reads_go_both_ways_by_turns_and_then_the_faster() -> None:
    ways = Ways()
    tried = [ways.next_is_past() for _ in range(8)]
    assert sorted(tried) == [False] * 4 + [True] * 4
    for past in tried[:7]:
        ways.took(past, MIB, 0.1 if past else 0.2)
    assert [ways.next_is_past() for _ in range(2)] == [True, False], "not all have come back yet"
    ways.took(tried[7], MIB, 0.1 if tried[7] else 0.2)
    assert [ways.next_is_past() for _ in range(9)] == [True] * 9


def test_where_the_page_cache_is_faster_it_is_used() -> None:
    ways = Ways()
    for past in [ways.next_is_past() for _ in range(8)]:
        ways.took(past, MIB, 0.2 if past else 0.1)
    assert not ways.next_is_past()


def test_whole_sectors_are_those_between_the_first_and_the_last_page() -> None:
    memory = memoryview(bytearray(64 << 10))
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    start = -address % 512 + 100
    assert sectors(4096 + 100, memory[start : start + 20_000]) == (8192, 20480)
    assert sectors(4096 + 100, memory[start + 1 : start + 20_000]) is None, "the memory lies otherwise"
    assert sectors(4096 + 100, memory[start : start + 8000]) is None, "there is none between"


SIZES = {f"t{number}": 2 * MIB + 1000 * (number % 3) for number in range(12)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """24 MiB that are not in the page cache; some tensors begin in the middle of a sector."""
    tensors = {name: random_bytes(nbytes, seed) for seed, (name, nbytes) in enumerate(SIZES.items())}
    save_file({**tensors, "cast": torch.ones(MIB)}, tmp_path / "model.safetensors")
    if not evict(tmp_path / "model.safetensors"):
        pytest.skip("this file system keeps its pages")
    return tmp_path / "model.safetensors"


def is_right(loaded: dict[str, torch.Tensor]) -> bool:
    return all(
        torch.equal(loaded[name], random_bytes(nbytes, seed)) for seed, (name, nbytes) in enumerate(SIZES.items())
    )


def random_bytes(nbytes: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def choosing(monkeypatch: pytest.MonkeyPatch, past: bool) -> None:
    monkeypatch.setattr(Ways, "next_is_past", lambda _: past)


def cached(path: Path) -> float:
    return cached_fraction(path).fraction or 0


@pytest.mark.parametrize(("past", "dtype"), [(True, None), (False, None), (True, torch.bfloat16)])
def test_what_is_not_cached_is_read_bit_by_bit_either_way(
    path: Path, monkeypatch: pytest.MonkeyPatch, past: bool, dtype: torch.dtype | None
) -> None:
    if not can_go_past(path):
        pytest.skip("this file system has no O_DIRECT")
    choosing(monkeypatch, past)

    loaded = load(None, path, dtype=dtype)

    assert cached(path) < 0.2 if past else cached(path) > 0.9
    assert is_right(loaded)
    assert loaded["cast"].dtype == (dtype or torch.float32)
    assert bool((loaded["cast"] == 1).all())


def can_go_past(path: Path) -> bool:
    descriptor = past_cache.open_past_cache(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


@pytest.mark.parametrize("when", ["at opening", "at reading"])
def test_where_there_is_no_way_past_the_cache_all_is_read_through_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    preadv, opened = os.preadv, set[int]()

    def refuse(descriptor: int, *arguments: Any) -> int:
        if descriptor in opened:
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(descriptor, *arguments)

    def opening(open_past_cache: Callable[[Path], int | None]) -> Callable[[Path], int | None]:
        def call(path: Path) -> int | None:
            descriptor = None if when == "at opening" else open_past_cache(path)
            opened.update([] if descriptor is None else [descriptor])
            return descriptor

        return call

    monkeypatch.setattr(files, "open_past_cache", opening(files.open_past_cache))
    monkeypatch.setattr(os, "preadv", refuse)

    assert is_right(load(None, path, threads=2))

    assert cached(path) > 0.9


def test_a_file_that_is_cut_while_it_is_read_past_the_cache_is_named_with_its_tensor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing(monkeypatch, True)
    preadv = os.preadv

    def cutting(descriptor: int, *arguments: Any) -> int:
        os.truncate(path, 5 * MIB)
        return preadv(descriptor, *arguments)

    monkeypatch.setattr(os, "preadv", cutting)
    with pytest.raises(StreamError, match=r"model.safetensors ends at .*, in the middle of '(t|cast)|has changed"):
        load(None, path)


def test_what_is_cached_is_not_read_past_the_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.read_bytes()
    asked: list[Path] = []
    monkeypatch.setattr(files, "open_past_cache", asked.append)
    assert is_right(load(None, path))
    assert asked == []
