"""Folders of torch.distributed.checkpoint against what torch writes, and ones that nobody should load."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_files import refused, small_allocations
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_checkpoints import FUZZ, mutated, read_or_refuse

from meminspect.checkpoint import Checkpoint, read_checkpoint
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:ComplexHalf")


def save(folder: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def loaded(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors from the bytes at which the headers say that they are."""
    found: dict[str, torch.Tensor] = {}
    for tensor in checkpoint.tensors:
        content = checkpoint.files[tensor.storage.file].path.read_bytes()
        data = bytearray(content[tensor.file_offset : tensor.file_offset + tensor.storage.nbytes])
        dtype = getattr(torch, tensor.dtype)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        part = flat.as_strided(tensor.shape, tensor.strides) if tensor.strides else flat.view(tensor.shape)
        if tensor.chunk is None:
            found[tensor.name] = part
        else:
            whole = found.setdefault(tensor.name, torch.empty(tensor.whole_shape, dtype=dtype))
            place = tuple(slice(at, at + n) for at, n in zip(tensor.chunk.start, tensor.shape, strict=True))
            whole[place] = part
    return found


def test_given_a_flat_state_dict_of_odd_tensors_then_each_is_where_the_header_says(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.randn(7, 5), "half": torch.randn(3).bfloat16(),
        "narrow": torch.randn(4).to(torch.float8_e5m2), "scalar": torch.tensor(3), "turned": torch.randn(4, 6).t(),
        "flag": torch.tensor([True, False]),
    }  # fmt: skip
    checkpoint = read_checkpoint(save(tmp_path / "d", state))

    assert (checkpoint.layout, checkpoint.prefix, checkpoint.warnings) == ("dcp", "", ())
    found = loaded(checkpoint)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name].view(torch.uint8), state[name].contiguous().view(torch.uint8)) for name in
               ("a.weight", "half", "narrow"))  # fmt: skip
    assert all(torch.equal(found[name], state[name]) for name in ("scalar", "turned", "flag"))


@pytest.mark.parametrize("named", ["", ".metadata", "__0_0.distcp"])
def test_given_a_training_run_then_the_model_is_read_and_the_rest_is_said_aloud(tmp_path: Path, named: str) -> None:
    state = {"model": {"w": torch.ones(4)}, "optimizer": {"m": torch.zeros(4), "lr": 0.1}, "step": 7}
    checkpoint = read_checkpoint(save(tmp_path / "d", state) / named)

    assert checkpoint.prefix == "model."
    assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
    (warning,) = checkpoint.warnings
    assert warning.startswith("not read, since it is beside the model: optimizer (2 entries, ")
    assert "step (1 entry, " in warning


@pytest.mark.parametrize("shards", [1, 2])
def test_given_synthesised_chunks_then_torch_and_we_read_the_same(tmp_path: Path, shards: int) -> None:
    folder = tiny_checkpoint("gpt2", "hf", "dcp", "float16", tmp_path / "d", shards=shards)
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    reference = {name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in stored.items()}
    dcp.load(reference, checkpoint_id=folder)

    checkpoint = read_checkpoint(folder)

    found = loaded(checkpoint)
    assert found.keys() == reference.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in reference.items())
    assert any(tensor.chunk for tensor in checkpoint.tensors) == (shards > 1)
    assert sum(count for count, _ in checkpoint.dtypes.values()) == len(reference)
    assert checkpoint.largest_tensor is not None
    assert checkpoint.largest_tensor.whole_nbytes == max(tensor.nbytes for tensor in reference.values())


def _cut_file(folder: Path) -> None:
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-700])


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    assert len(old) == len(new)

    def change(folder: Path) -> None:
        content = (folder / ".metadata").read_bytes()
        assert old in content
        (folder / ".metadata").write_bytes(content.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut_file, "that its header promises"),
        (_without(".metadata"), "no .metadata"),
        (_without("__0_0.distcp"), "no such file"),
        (_replaced(b"__0_0.distcp", b"../../e.dist"), "outside its folder"),
        (_replaced(b"_StorageInfo", b"_StorageOnfo"), "does not write"),
        (_replaced(b"float32", b"float64"), "says float64"),
        (_replaced(b"relative_path", b"relative_poth"), "outside its folder"),
        (_replaced(b"ChunkStorageMetadata", b"BytesStorageMetadata"), ""),
    ],
)
def test_given_a_damaged_folder_then_it_is_refused(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    folder = save(tmp_path / "d", {"w": torch.ones(8), "v": torch.ones(2, 2)})
    damage(folder)
    if words:
        refused(folder, words)
    else:
        assert read_checkpoint(folder).tensors, "the class of a chunk is of no account, its numbers are"


class _Runs:
    def __init__(self, function: Any, *args: object) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self._call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "call",
    [(Path.touch, "x"), (bytearray, 1 << 40), (eval, "1"), (torch.UntypedStorage, 1 << 40)],
    ids=["touch", "bytearray", "eval", "storage"],
)
def test_given_metadata_that_would_run_something_then_it_is_named_and_not_run(
    tmp_path: Path, protocol: int, call: tuple[Any, object]
) -> None:
    folder = save(tmp_path / "d", {"w": torch.ones(8)})
    (folder / ".metadata").write_bytes(pickle.dumps({"a": _Runs(*call)}, protocol))
    with small_allocations():
        refused(folder, "which torch.distributed.checkpoint does not write")


def test_given_a_huge_metadata_then_it_is_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", {"w": torch.ones(8)})
    with (folder / ".metadata").open("r+b") as file:
        file.truncate(1 << 40)
    with small_allocations():
        refused(folder, "are read")


METADATA, FILE = ".metadata", "__0_0.distcp"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of a sound checkpoint's files."""
    state = {"model": {"w": torch.ones(4), "v": torch.ones(2, 2)}, "n": 1}
    folder = save(tmp_path_factory.mktemp("dcp") / "d", state)
    return {METADATA: pickletools.optimize((folder / METADATA).read_bytes()), FILE: (folder / FILE).read_bytes()}


@pytest.mark.parametrize("name", [METADATA, FILE])
@FUZZ
@given(data=st.data())
def test_given_a_mutated_file_then_the_folder_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, written: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated-dcp"
    folder.mkdir(exist_ok=True)
    for file, content in {**written, name: data.draw(mutated(written[name]))}.items():
        (folder / file).write_bytes(content)
    read_or_refuse(folder)
