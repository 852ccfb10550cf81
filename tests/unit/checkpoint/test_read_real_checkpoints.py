"""Readers against what the real torch.save and safetensors write: every tensor's bytes are where the header says."""

from __future__ import annotations

import itertools
import json
import operator
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from meminspect.checkpoint import Checkpoint, StoredTensor, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.bool,
)  # fmt: skip


def torch_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def patterned(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of bytes that no other place of the file has."""
    elements = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.arange(elements) % 3 == 0).reshape(shape)
    raw = torch.randint(0, 256, (elements * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def by_name(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for tensor in checkpoint.tensors}


def bytes_on_disk(checkpoint: Checkpoint, tensor: StoredTensor) -> bytes:
    content = checkpoint.files[tensor.storage.file].path.read_bytes()
    return content[tensor.file_offset : tensor.file_offset + tensor.nbytes]


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    found = by_name(checkpoint)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == torch_name(tensor.dtype)
        assert found[name].shape == tuple(tensor.shape)
        if tensor.is_contiguous():
            assert found[name].strides is None
            assert bytes_on_disk(checkpoint, found[name]) == raw_bytes(tensor), name
    places = [(tensor.storage.file, tensor.file_offset) for tensor in checkpoint.tensors]
    assert places == sorted(places)


@pytest.fixture
def every_kind() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {torch_name(dtype): patterned(dtype, 3, 5) for dtype in DTYPES}
    return tensors | {
        "scalar": patterned(torch.float32),
        "empty": torch.zeros(0, 4),
        "one": patterned(torch.int8, 1, 1, 1),
        "naïve/名\n": patterned(torch.float16, 2),
    }


def save_meta(folder: Path, *slices: Mapping[str, object], params: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    for number, tensors in enumerate(slices):
        torch.save(tensors, folder / f"consolidated.{number:02d}.pth")
    if params is not None:
        (folder / "params.json").write_text(json.dumps(params))
    return folder


class TestMeta:
    @pytest.mark.filterwarnings("ignore:ComplexHalf")
    def test_given_every_dtype_then_each_tensor_is_where_the_header_says(
        self, tmp_path: Path, every_kind: dict[str, torch.Tensor]
    ) -> None:
        kinds = every_kind | {"complex32": torch.zeros(2, dtype=torch.complex32)}
        checkpoint = read_checkpoint(save_meta(tmp_path / "llama", kinds, params={"dim": 8, "vocab_size": -1}))
        assert checkpoint.layout == "meta"
        assert checkpoint.config == {"dim": 8, "vocab_size": -1}
        assert checkpoint.warnings == ()
        assert not checkpoint.parallel_files
        assert_same(checkpoint, kinds)

    def test_given_shared_storages_and_views_then_they_keep_one_storage_and_their_strides(self, tmp_path: Path) -> None:
        base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
        tensors = {
            "base": base,
            "tied": base,
            "row": base[2],
            "column": base[:, 1],
            "turned": base.T,
            "off": base[1:, 2:],
        }
        checkpoint = read_checkpoint(save_meta(tmp_path / "m", tensors))
        found = by_name(checkpoint)
        assert len(checkpoint.storages) == 1
        assert checkpoint.nbytes == 96
        assert checkpoint.tied == (("base", "tied"),)
        assert {name: (tensor.offset, tensor.strides) for name, tensor in found.items()} == {
            "base": (0, None), "tied": (0, None), "row": (48, None), "column": (4, (6,)),
            "turned": (0, (1, 6)), "off": (32, (6, 1)),
        }  # fmt: skip
        content = checkpoint.files[0].path.read_bytes()
        for name, expected in tensors.items():
            strides = found[name].strides or expected.stride()
            steps = itertools.product(*map(range, expected.shape))
            places = [found[name].file_offset + 4 * sum(map(operator.mul, step, strides)) for step in steps]
            assert [struct.unpack_from("<f", content, place)[0] for place in places] == expected.flatten().tolist()

    def test_given_views_of_large_storages_then_an_empty_slice_and_dims_of_one_are_row_major(
        self, tmp_path: Path
    ) -> None:
        base = torch.arange(20.0).reshape(5, 4)
        tensors = {"past": base[5:5, 3:], "column": base[:1, :], "expanded": torch.ones(1).expand(7)}
        found = by_name(read_checkpoint(save_meta(tmp_path / "m", tensors)))
        assert found["past"].nbytes == 0
        assert found["column"].strides is None
        assert found["expanded"].strides == (0,)
        assert found["expanded"].storage.nbytes == 4

    def test_given_a_module_then_parameters_buffers_and_metadata_are_read(self, tmp_path: Path) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        checkpoint = read_checkpoint(save_meta(tmp_path / "m", module.state_dict(keep_vars=True)))
        assert_same(checkpoint, module.state_dict())

    def test_given_a_tensor_and_a_parameter_with_attributes_then_they_are_read(self, tmp_path: Path) -> None:
        tensor, parameter = torch.ones(3), torch.nn.Parameter(torch.ones(2))
        tensor.note = "x"  # type: ignore[attr-defined]
        parameter.is_model_parallel = True  # type: ignore[attr-defined]
        assert_same(
            read_checkpoint(save_meta(tmp_path / "m", {"a": tensor, "b": parameter})), {"a": tensor, "b": parameter}
        )

    def test_given_values_that_are_no_tensors_then_a_warning_names_them(self, tmp_path: Path) -> None:
        values: dict[Any, object] = {
            "w": torch.ones(2), "step": 3, "lr": 0.1, "on": True, "args": {"a": [1, 2]}, "none": None, "text": "t",
            "big": 1 << 200, "size": torch.Size([2, 3]), "device": torch.device("cpu"), "dtype": torch.float16,
            "raw": b"ab", "set": {1}, "list": [torch.ones(1)], 7: torch.ones(1), (1, 2): 3,
            "meta": torch.ones(2, device="meta"),
        }  # fmt: skip
        checkpoint = read_checkpoint(save_meta(tmp_path / "m", values, params={}))
        assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
        assert "ignored what is no tensor: step (int), lr (float), on (bool) and 13 more" in checkpoint.warnings
        assert [(tensor.name, tensor.storage.nbytes) for tensor in checkpoint.beside] == [("list.0", 4), ("7", 4)]
        assert (
            "beside the state dict lie 2 tensors of 8 B, which torch.load reads too: list (1, 4 B), 7 (1, 4 B)"
            in checkpoint.warnings
        )

    def test_given_a_lazy_conjugate_then_a_warning_says_that_bytes_are_not_values(self, tmp_path: Path) -> None:
        tensors = {"c": torch.ones(2, dtype=torch.complex64).conj()}
        (warning,) = read_checkpoint(save_meta(tmp_path / "m", tensors, params={})).warnings
        assert "conjugated" in warning

    def test_given_packed_four_bit_floats_then_elements_are_counted(self, tmp_path: Path) -> None:
        packed = torch.zeros(3, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        (tensor,) = read_checkpoint(save_meta(tmp_path / "m", {"w": packed})).tensors
        assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("float4_e2m1", (3, 8), 12)

    @pytest.mark.parametrize("named", ["", "params.json", "consolidated.00.pth", "consolidated.01.pth"])
    def test_given_model_parallel_files_when_any_is_named_then_all_are_read(self, tmp_path: Path, named: str) -> None:
        slices = [{"w": torch.full((2,), float(rank)), "norm": torch.ones(1)} for rank in range(3)]
        folder = save_meta(tmp_path / "m", *slices, params={"dim": 2})
        (folder / "checklist.chk").write_text("…")
        (folder / "tokenizer.model").write_bytes(b"\0")
        checkpoint = read_checkpoint(str(folder / named))
        assert checkpoint.path == folder / named
        assert checkpoint.parallel_files
        assert [file.name for file in checkpoint.files] == [f"consolidated.0{rank}.pth" for rank in range(3)]
        assert [tensor.storage.file for tensor in checkpoint.tensors] == [0, 0, 1, 1, 2, 2]
        assert len(checkpoint.storages) == 6

    def test_given_no_params_then_the_weights_are_read_with_a_warning(self, tmp_path: Path) -> None:
        checkpoint = read_checkpoint(save_meta(tmp_path / "m", {"w": torch.ones(1)}))
        assert checkpoint.config is None
        assert "params.json" in checkpoint.warnings[0]

    def test_given_many_tensors_then_all_are_found(self, tmp_path: Path) -> None:
        tensors = {f"w{number}": torch.full((1,), number) for number in range(3000)}
        checkpoint = read_checkpoint(save_meta(tmp_path / "m", tensors))
        content = checkpoint.files[0].path.read_bytes()
        for name, tensor in by_name(checkpoint).items():
            assert int.from_bytes(content[tensor.file_offset :][:8], "little") == int(name[1:])


class TestSafetensors:
    def test_given_every_dtype_then_each_tensor_is_where_the_header_says(
        self, tmp_path: Path, every_kind: dict[str, torch.Tensor]
    ) -> None:
        kinds = {name: tensor for name, tensor in every_kind.items() if tensor.dtype != torch.complex128}
        save_file(kinds, tmp_path / "any.safetensors", metadata={"format": "pt"})
        for path in (tmp_path / "any.safetensors", tmp_path):
            checkpoint = read_checkpoint(path)
            assert checkpoint.layout == "safetensors"
            assert checkpoint.config is None
            assert checkpoint.warnings == ()
            assert_same(checkpoint, kinds)

    def test_given_packed_four_bit_floats_then_elements_are_counted(self, tmp_path: Path) -> None:
        packed = torch.zeros(3, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        save_file({"w": packed}, tmp_path / "a.safetensors")
        (tensor,) = read_checkpoint(tmp_path).tensors
        assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("float4_e2m1", (3, 8), 12)

    def test_given_no_tensors_then_the_checkpoint_is_empty(self, tmp_path: Path) -> None:
        save_file({}, tmp_path / "a.safetensors")
        checkpoint = read_checkpoint(tmp_path)
        assert (checkpoint.tensors, checkpoint.nbytes, checkpoint.largest_tensor) == ((), 0, None)

    def test_given_a_blob_named_by_its_hash_then_its_content_says_what_it_is(self, tmp_path: Path) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "0f3c")
        assert read_checkpoint(tmp_path / "0f3c").layout == "safetensors"

    def test_given_model_safetensors_then_its_config_is_read_and_others_are_named(self, tmp_path: Path) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
        save_file({"v": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
        (tmp_path / "config.json").write_text('{"model_type": "llama", "nested": {"a": [1.5, null]}}')
        checkpoint = read_checkpoint(tmp_path)
        assert checkpoint.config == {"model_type": "llama", "nested": {"a": [1.5, None]}}
        assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
        assert "adapter_model.safetensors" in checkpoint.warnings[0]


def save_sharded(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]], **index: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        save_file(dict(tensors), folder / name)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    content = {"metadata": {}, "weight_map": weight_map} | index
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


SHARDS = {
    "model-00001-of-00002.safetensors": {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64)},
    "model-00002-of-00002.safetensors": {"c": torch.full((4,), 2.0)},
}


class TestSharded:
    @pytest.mark.parametrize("named", ["", "model.safetensors.index.json"])
    def test_given_an_index_then_every_shard_is_read(self, tmp_path: Path, named: str) -> None:
        folder = save_sharded(tmp_path / "hf", SHARDS, metadata={"total_size": 44})
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        checkpoint = read_checkpoint(folder / named)
        assert checkpoint.layout == "safetensors-sharded"
        assert checkpoint.config == {"model_type": "gpt2"}
        assert checkpoint.warnings == ()
        assert [file.name for file in checkpoint.files] == sorted(SHARDS)
        assert checkpoint.shard_nbytes == (28, 16)
        assert_same(checkpoint, {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()})

    def test_given_one_shard_named_then_it_is_read_alone_without_the_config(self, tmp_path: Path) -> None:
        folder = save_sharded(tmp_path, SHARDS)
        (folder / "config.json").write_text("{}")
        checkpoint = read_checkpoint(folder / "model-00002-of-00002.safetensors")
        assert checkpoint.layout == "safetensors"
        assert [tensor.name for tensor in checkpoint.tensors] == ["c"]
        assert checkpoint.config is None
        assert "one shard" in checkpoint.warnings[0]

    def test_given_an_index_that_disagrees_then_warnings_say_so(self, tmp_path: Path) -> None:
        first, second = SHARDS
        folder = save_sharded(tmp_path, SHARDS, weight_map={"a": first, "c": second}, metadata={"total_size": 1})
        save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
        checkpoint = read_checkpoint(folder)
        assert [warning.split(":")[0] for warning in checkpoint.warnings] == [
            "1 tensors are in the shards but not in the index",
            "the index says 1 B of tensors (1), the shards hold 44 bytes",
            "not read, since the index does not list them",
        ]

    def test_given_a_hugging_face_cache_then_its_links_into_blobs_are_followed(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
        save_sharded(snapshot, SHARDS, metadata={"total_size": 44})
        blobs = tmp_path / "models--a--b" / "blobs"
        blobs.mkdir()
        for number, path in enumerate(sorted(snapshot.iterdir())):
            path.rename(blobs / f"hash{number}")
            path.symlink_to(f"../../blobs/hash{number}")
        for path in (snapshot, snapshot / "model.safetensors.index.json"):
            assert len(read_checkpoint(path).tensors) == 3
