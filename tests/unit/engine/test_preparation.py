from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest

from meminspect.checkpoint import read_checkpoint
from meminspect.engine.preparation import prepare_cache
from meminspect.page_cache import cached_fraction, evict
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint import Checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """One in two shards, whose pages can be dropped."""
    found = read_checkpoint(tiny_checkpoint("llama", "hf", "safetensors", "float32", tmp_path / "tiny", shards=2))
    if not all(evict(file.path) for file in found.files):
        pytest.skip("the pages of this file system cannot be dropped (a tmpfs?)")
    return found


def cached(checkpoint: Checkpoint) -> list[float | None]:
    return [cached_fraction(file.path).fraction for file in checkpoint.files]


def never() -> bool:
    return False


def test_given_a_cold_checkpoint_when_it_shall_be_warm_then_all_of_it_is_cached_and_back(
    checkpoint: Checkpoint,
) -> None:
    assert prepare_cache("warm", checkpoint, never) == ""
    assert cached(checkpoint) == [1.0, 1.0]
    assert prepare_cache("cold", checkpoint, never) == ""
    assert cached(checkpoint) == [0.0, 0.0]


def test_given_a_wish_to_stop_after_the_first_file_then_the_second_is_left_as_it_is(checkpoint: Checkpoint) -> None:
    first, _ = checkpoint.files

    assert prepare_cache("warm", checkpoint, lambda: cached_fraction(first.path).fraction == 1.0) == ""

    assert cached(checkpoint) == [1.0, 0.0]


def test_given_a_file_that_somebody_maps_when_it_shall_be_cold_then_it_is_named(checkpoint: Checkpoint) -> None:
    prepare_cache("warm", checkpoint, never)
    first, _ = checkpoint.files

    with first.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert mapping[0] is not None
        said = prepare_cache("cold", checkpoint, never)

    assert said.startswith(f"{first.name} could not be dropped from the page cache")


def test_given_a_file_that_is_gone_then_it_is_named_and_the_other_is_read(checkpoint: Checkpoint) -> None:
    first, second = checkpoint.files
    first.path.unlink()

    assert prepare_cache("warm", checkpoint, never) == f"{first.name} could not be read into the page cache"
    assert cached_fraction(second.path).fraction == 1.0
