"""`python -m meminspect inspect`, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = {
    "path", "layout", "architecture", "files", "shards", "tensors", "parameters", "bytes", "largest_tensor",
    "largest_shard_bytes", "dtypes", "tied", "file_system", "file_system_reason", "quantisation", "warnings",
}  # fmt: skip
MACHINE = {
    "ram_total_bytes", "ram_available_bytes", "memory_limit_bytes", "swap_free_bytes", "gpus", "torch_version",
    "kernel", "thp", "reasons",
}  # fmt: skip


def meminspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meminspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", "meta", "meta", "bfloat16", tmp_path / "tiny-llama", shards=2)


def test_a_person_gets_a_card_and_tables_within_80_columns(checkpoint: Path) -> None:
    done = meminspect("inspect", "--ckpt", checkpoint)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny-llama · meta layout · 2 model-parallel slices")
    assert {"Files", "Dtypes", "Largest tensors"} <= set(lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout  # no colours on a pipe


def test_a_machine_gets_one_document_of_the_contract(checkpoint: Path) -> None:
    done = meminspect("inspect", "--ckpt", checkpoint, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document.keys() == {"schema", "checkpoint", "machine"}
    assert document["schema"] == "meminspect.inspect/1"
    assert document["checkpoint"].keys() == CHECKPOINT
    assert document["machine"].keys() == MACHINE
    assert document["checkpoint"]["architecture"] == "llama"
    assert document["checkpoint"]["files"][0].keys() == {"name", "bytes", "tensors", "cached_fraction", "cached_reason"}
    assert set(document["checkpoint"]["dtypes"]) == {"bfloat16"}


def test_an_unreadable_checkpoint_is_an_error_for_both(tmp_path: Path) -> None:
    path = tmp_path / "absent\x1b[31m"

    for_a_person = meminspect("inspect", "--ckpt", path)
    for_a_machine = meminspect("inspect", "--json", "--ckpt", path)

    assert for_a_person.returncode == for_a_machine.returncode == 2
    assert for_a_person.stdout == for_a_machine.stderr == ""
    assert for_a_person.stderr.startswith("meminspect: error: ")
    assert "\x1b" not in for_a_person.stderr
    document = json.loads(for_a_machine.stdout)
    assert document.keys() == {"schema", "error", "message", "hint"}
    assert document["schema"] == "meminspect.error/1"
    assert document["error"] == "checkpoint"


def test_what_cannot_be_recognised_can_still_be_inspected(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)

    document = json.loads(meminspect("inspect", "--json", "--ckpt", path).stdout)["checkpoint"]

    assert document["architecture"] == "skeleton"
    assert any("no known architecture" in warning for warning in document["warnings"])
