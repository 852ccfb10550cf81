from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meminspect.worker import ballast

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
ROOM = 200 * MIB
ROOM_FOR_BALLAST = 164 * MIB  # nine tenths, less what the passing interpreter takes itself


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lends memory to its host, and a limit that leaves so much."""
    monkeypatch.setattr(ballast, "_REPORTING", tmp_path)
    monkeypatch.setattr(ballast, "_free_bytes", lambda: ROOM)


@pytest.mark.usefixtures("room")
def test_given_a_load_that_needs_more_than_a_limit_leaves_then_nothing_is_populated() -> None:
    assert ballast.populate(ROOM_FOR_BALLAST - MIB)
    assert not ballast.populate(ROOM_FOR_BALLAST + MIB)


def test_given_a_container_that_hides_what_is_free_then_nothing_is_populated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "_REPORTING", tmp_path)
    monkeypatch.setattr(ballast, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(ballast, "memory_group", lambda: None)

    assert not ballast.populate(MIB)
