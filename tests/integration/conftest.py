"""What runs of the installed command share: checkpoints to load, and a home in which nothing stays running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checkpoint_variants import Variants
from command_line import Home, until

from meminspect.checkpoint import read_checkpoint
from meminspect.engine.limits.group import limited_group
from meminspect.errors import RunError
from meminspect.page_cache import evict
from meminspect.sampling.cgroups import MemoryGroup, memory_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A_LIMIT = 1 << 30


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    return Variants(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home of the test's own; what was started from it has ended when the test has."""
    yield (made := Home(tmp_path / "home"))
    until(lambda: not made.processes())


@pytest.fixture
def checkpoint(variants: Variants) -> Path:
    """200 MB that can be dropped from the page cache."""
    if not all(evict(file.path) for file in read_checkpoint(variants["big"]).files):
        pytest.skip("the pages of this file system cannot be dropped (a tmpfs?)")
    return variants["big"]


@pytest.fixture
def own() -> MemoryGroup:
    """Our memory cgroup, where this user may make others with limits."""
    try:
        with limited_group(A_LIMIT):
            pass
    except RunError as error:
        pytest.skip(error.message)
    found = memory_group()
    assert found is not None
    return found
