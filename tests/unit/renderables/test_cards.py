from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meminspect.analysis.subject import Subject, read_subject
from meminspect.cli.options import open_checkpoint
from meminspect.renderables.cards import checkpoint_card, counted, machine_card, warnings_card
from meminspect.sampling.machine import Machine
from meminspect.sampling.nvml import Gpu
from meminspect.strategies.task import LoadOptions, task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny\x1b[31m", shards=2)
    checkpoint = open_checkpoint(path, demo=False)
    return read_subject(checkpoint, task_for(checkpoint, LoadOptions()).architecture, "a note")


def test_things_are_counted_in_english() -> None:
    assert [counted(count, "file") for count in (0, 1, 1000)] == ["0 files", "1 file", "1,000 files"]


def test_a_checkpoint_is_said_in_two_lines(subject: Subject) -> None:
    first, second = checkpoint_card(subject)

    assert first.plain.startswith("tiny\\x1b[31m · meta layout · 2 model-parallel slices · ")
    assert first.plain.endswith(" KiB float16")
    assert second.plain.startswith("llama · ")
    assert second.plain.endswith(" in page cache")


def test_warnings_are_lines_and_too_many_are_counted(subject: Subject) -> None:
    assert [line.plain for line in warnings_card(subject)] == ["warning: a note"]

    subject.document["warnings"] = ["w"] * 1000
    lines = [line.plain for line in warnings_card(subject)]
    assert len(lines) == 9
    assert lines[-1] == "… and 992 more warnings: see --json"


def test_a_machine_is_said_in_one_line() -> None:
    gpu = Gpu(index=0, name="H100", uuid=None, total_bytes=80 * GIB, free_bytes=79 * GIB, used_bytes=GIB, unified=False)
    machine = Machine(24 * GIB, 23 * GIB, 8 * GIB, 7 * GIB, 0, (gpu,), None, "6.1", None)

    assert machine_card(machine).plain == (
        "this machine: 24.00 GiB RAM · 7.00 GiB usable · cgroup limit 8.00 GiB · H100 with 79.00 GiB free"
    )
