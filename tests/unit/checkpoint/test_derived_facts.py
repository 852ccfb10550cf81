"""Facts of a checkpoint that are found kind by kind, held against those found tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from meminspect.analysis.describe import checkpoint_document
from meminspect.checkpoint import Checkpoint
from meminspect.checkpoint.model import CheckpointFile, Chunk, Storage, StoredTensor
from meminspect.page_cache import Residency


def tensor(name: str, file: int, offset: int, elements: int, storage: Storage | None = None) -> StoredTensor:
    return StoredTensor(name, "float32", (elements,), storage or Storage(file, name, offset, 4 * elements))


SHARED = Storage(0, "shared", 0, 16)
TENSORS = {
    "each alone": [tensor("a", 0, 0, 4), tensor("b", 0, 16, 4), tensor("c", 1, 0, 4)],
    "not in order": [tensor("a", 0, 16, 4), tensor("b", 0, 0, 4), tensor("c", 1, 0, 2)],
    "an empty one": [tensor("a", 0, 0, 0), tensor("b", 0, 0, 4)],
    "neighbours share": [tensor("a", 0, 0, 4, SHARED), tensor("b", 0, 0, 4, SHARED), tensor("c", 0, 16, 2)],
    "distant ones share": [tensor("a", 0, 0, 4, SHARED), tensor("b", 0, 16, 4), tensor("c", 0, 0, 4, SHARED)],
    "none": [],
}


@pytest.mark.parametrize("tensors", TENSORS.values(), ids=TENSORS.keys())
def test_what_kinds_say_is_what_tensors_say(tensors: list[StoredTensor]) -> None:
    files = tuple(CheckpointFile(name, Path(name), 0) for name in ("0", "1"))
    checkpoint = Checkpoint(Path("/ckpt"), "torch", files, tuple(tensors))
    storages = {one.storage for one in tensors}

    assert checkpoint.shares == (len(storages) < len(tensors))
    assert sorted(one for alike in checkpoint.alike for one in alike) == sorted(tensors)
    assert checkpoint.nbytes == sum(storage.nbytes for storage in storages)
    assert checkpoint.shard_nbytes == tuple(sum(s.nbytes for s in storages if s.file == file) for file in (0, 1))
    document = checkpoint_document(checkpoint, None, [Residency(0.0, "")] * 2, None)
    assert [file["tensors"] for file in document["files"]] == [
        sum(one.storage.file == file for one in tensors) for file in (0, 1)
    ]
    assert document["tensors"] == len(tensors)


def test_chunks_of_one_name_are_one_tensor() -> None:
    chunks = [tensor("a", 0, 16 * at, 4)._replace(chunk=Chunk((8,), (4 * at,))) for at in (0, 1)]
    checkpoint = Checkpoint(Path("/ckpt"), "dcp", (CheckpointFile("0", Path("0"), 0),), tuple(chunks))

    assert checkpoint_document(checkpoint, None, [Residency(0.0, "")], None)["tensors"] == 1
