from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from golden_capture import (
    FACTS,
    LEDGER,
    relative_devices,
    relative_events,
    relative_log,
    relative_page_cache,
    relative_samples,
    write_capture,
)

from meminspect.capture.schema import VERSION
from meminspect.capture.store import CaptureReader

GOLDEN = Path(__file__).parents[2] / "golden"
VERSIONS = range(1, VERSION + 1)


def schema_of(path: Path) -> list[tuple[str, str, str]]:
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    database.close()
    return rows


@pytest.mark.parametrize("version", VERSIONS)
def test_a_capture_of_every_version_stays_readable(version: int, tmp_path: Path) -> None:
    path = tmp_path / "golden.meminspect"
    shutil.copyfile(GOLDEN / f"capture-v{version}.meminspect", path)
    with CaptureReader(path) as capture:
        assert {name: capture.fact(name) for name in FACTS} == FACTS
        assert capture.events() == list(enumerate(relative_events(), 1))
        assert capture.samples() == relative_samples()
        assert capture.log() == relative_log()
        assert capture.ledger() == list(LEDGER)
        assert capture.device_samples() == (relative_devices() if version >= 4 else [])
        assert capture.page_cache() == (relative_page_cache() if version >= 2 else [])


def test_the_present_schema_is_that_of_the_golden_file_of_its_version(tmp_path: Path) -> None:
    """A schema that changes needs a new version, a golden file of its own and a line in the history."""
    write_capture(tmp_path / "new.meminspect")
    assert schema_of(tmp_path / "new.meminspect") == schema_of(GOLDEN / f"capture-v{VERSION}.meminspect")
