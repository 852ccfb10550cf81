from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meminspect.analysis.describe import cached_fraction, checkpoint_document, plan_document, theory_document
from meminspect.analysis.plan import make_plan
from meminspect.architectures import Architecture
from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Storage, StoredTensor
from meminspect.page_cache import Residency
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for

CHECKPOINT_KEYS = {
    "path", "layout", "architecture", "files", "shards", "tensors", "parameters", "bytes", "largest_tensor",
    "largest_shard_bytes", "dtypes", "tied", "quantisation", "file_system", "file_system_reason", "warnings",
}  # fmt: skip
POOLS_KEYS = {"heap_bytes", "file_bytes", "pinned_bytes", "vram_allocated_bytes", "vram_reserved_bytes"}

GIB = 1 << 30


def tensor(name: str, file: int, elements: int, *, key: str = "", dtype: str = "float16") -> StoredTensor:
    width = {"float16": 2, "int64": 8}[dtype]
    return StoredTensor(name, dtype, (elements,), Storage(file, key or name, 100, width * elements))


def checkpoint(*tensors: StoredTensor, files: int = 2) -> Checkpoint:
    listed = tuple(CheckpointFile(f"f{i}", Path(f"/ckpt/f{i}"), 1000 * (i + 1)) for i in range(files))
    return Checkpoint(Path("/ckpt"), "safetensors-sharded", listed, tensors, warnings=("odd",))


@pytest.fixture
def tied() -> Checkpoint:
    return checkpoint(
        tensor("a.weight", 0, 10, key="shared"),
        tensor("head.weight", 0, 10, key="shared"),
        tensor("b.weight", 1, 30),
        tensor("b.steps", 1, 1, dtype="int64"),
    )


def test_a_checkpoint_is_described_with_every_key_of_the_contract(tied: Checkpoint) -> None:
    document = checkpoint_document(
        tied,
        Architecture("skeleton", "checkpoint", {}, ()),
        (Residency(0.5, ""), Residency(None, "ZFS")),
        "ext4",
        "a note",
    )

    assert document == {
        "path": "/ckpt",
        "layout": "safetensors-sharded",
        "architecture": "skeleton",
        "files": [
            {"name": "f0", "bytes": 1000, "tensors": 2, "cached_fraction": 0.5, "cached_reason": None},
            {"name": "f1", "bytes": 2000, "tensors": 2, "cached_fraction": None, "cached_reason": "ZFS"},
        ],
        "shards": 2,
        "tensors": 4,
        "parameters": 41,
        "bytes": 88,
        "largest_tensor": {"name": "b.weight", "bytes": 60},
        "largest_shard_bytes": 68,
        "dtypes": {"float16": {"tensors": 3, "bytes": 100}, "int64": {"tensors": 1, "bytes": 8}},
        "quantisation": None,
        "tied": [["a.weight", "head.weight"]],
        "file_system": "ext4",
        "file_system_reason": None,
        "warnings": ["odd", "a note"],
    }
    assert document.keys() == CHECKPOINT_KEYS


def test_what_is_unknown_is_null_and_not_missing() -> None:
    document = checkpoint_document(checkpoint(files=0), None, (), None)

    assert document.keys() == CHECKPOINT_KEYS
    assert document["architecture"] is document["largest_tensor"] is document["largest_shard_bytes"] is None
    assert document["file_system"] is None
    assert document["file_system_reason"] == "no table of what is mounted can be read here"


def test_the_whole_checkpoint_is_cached_as_far_as_its_bytes_are(tied: Checkpoint) -> None:
    assert cached_fraction(tied, (Residency(1.0, ""), Residency(0.25, ""))) == 0.5
    assert cached_fraction(tied, (Residency(1.0, ""), Residency(None, "ZFS"))) is None
    assert cached_fraction(checkpoint(files=0), ()) is None


def test_a_theory_is_described_in_bytes(tied: Checkpoint) -> None:
    theory = STRATEGIES["naive"].theory(task_for(tied, LoadOptions()))

    document = theory_document(theory)

    assert document["peak"].keys() == document["steady"].keys() == POOLS_KEYS
    assert document["floor_bytes"] == theory.floor_bytes
    assert sum(line["bytes"] for line in document["bill"]) == theory.peak_rss_bytes == document["peak_rss_bytes"]
    assert all(line.keys() == {"item", "pool", "bytes"} for line in document["bill"])


def test_a_plan_is_described_with_every_strategy(tied: Checkpoint) -> None:
    plan = make_plan(task_for(tied, LoadOptions()), GIB)

    document = plan_document(plan, {"path": "/ckpt"}, {"kernel": "6"})

    assert document["schema"] == "meminspect.plan/1"
    assert document["checkpoint"] == {"path": "/ckpt"}
    assert document["machine"] == {"kernel": "6"}
    assert document["budgets"] == {"ram_bytes": GIB, "vram_bytes": None}
    assert {row["strategy"] for row in document["strategies"]} == set(STRATEGIES)
    assert document["recommended"] in STRATEGIES
    json.dumps(document, allow_nan=False)


def test_an_unavailable_strategy_says_why_and_has_no_theory(tied: Checkpoint) -> None:
    task = task_for(tied, LoadOptions())
    plan = make_plan(replace(task, options=LoadOptions(device="abacus")), GIB)

    document = plan_document(plan, {}, {})

    refused = [row for row in document["strategies"] if not row["available"]]
    assert refused
    for row in refused:
        assert row["why_not"]
        assert row["verdict"] is row["theory"] is None


def test_a_network_file_system_is_the_first_warning() -> None:
    document = checkpoint_document(checkpoint(files=0), None, (), "nfs4", "a note")
    assert document["warnings"][0].startswith("it lies on nfs4, a network file system")
    assert document["warnings"][-1] == "a note"
    assert checkpoint_document(checkpoint(files=0), None, (), "ext4", "a note")["warnings"][-1:] == ["a note"]
