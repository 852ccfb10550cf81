"""Whatever torch.save writes is read as torch.load reads it: names, shapes, types and the place of every byte."""

from __future__ import annotations

import argparse
import collections
import json
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from checkpoint_files import refused
from safetensors.torch import save_file

from meminspect.checkpoint import Checkpoint, read_checkpoint
from meminspect.errors import SeveralCheckpointsError

if TYPE_CHECKING:
    from meminspect.checkpoint import StoredTensor

Tensors = dict[str, torch.Tensor]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def odd_tensors() -> Tensors:
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    return {
        "plain": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "bf": torch.randn(2, 2).bfloat16(),
        "ids": torch.arange(7),
        "flag": torch.tensor(True),
        "complex": torch.randn(3, dtype=torch.complex64),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "base": base,
        "turned": base.t(),
        "part": base[1:4, 2:5],
        "spread": torch.ones(1).expand(4),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }


def save(value: object, path: Path, *, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def from_disk(checkpoint: Checkpoint, stored: StoredTensor) -> torch.Tensor:
    """The tensor that a header describes, taken from the file by its offsets alone."""
    content = bytearray(checkpoint.files[stored.storage.file].path.read_bytes())
    dtype = getattr(torch, stored.dtype)
    if not stored.elements:
        return torch.empty(stored.shape, dtype=dtype)
    strides = stored.strides or torch.empty(stored.shape, device="meta").stride()
    extent = 1 + sum((length - 1) * stride for length, stride in zip(stored.shape, strides, strict=True))
    return torch.frombuffer(content, dtype=dtype, count=extent, offset=stored.file_offset).as_strided(
        stored.shape, strides
    )


def assert_as_torch_loads(checkpoint: Checkpoint, expected: Any) -> None:
    assert [tensor.name for tensor in checkpoint.tensors] == list(expected)
    for stored in checkpoint.tensors:
        assert torch.equal(from_disk(checkpoint, stored), expected[stored.name]), stored.name
        assert str(expected[stored.name].dtype) == f"torch.{stored.dtype}"


@FORMATS
@pytest.mark.parametrize("name", ["model.pth", "model.pt", "pytorch_model.bin", "last.ckpt", "weights", "x.anything"])
def test_given_a_state_dict_under_any_name_then_every_tensor_is_where_torch_finds_it(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    path = save(odd_tensors(), tmp_path / name, zipped=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.layout == "torch"
    assert (checkpoint.entry, checkpoint.mixed, checkpoint.beside, checkpoint.warnings) == ((), False, (), ())
    assert_as_torch_loads(checkpoint, torch.load(path, weights_only=True))
    assert checkpoint.tied == ()
    assert bool(checkpoint.files[0].unmappable) is not zipped


@FORMATS
@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda tensors: {"state_dict": tensors, "epoch": 1}, ("state_dict",)),
        (lambda tensors: {"epoch": 1, "model": tensors}, ("model",)),
        (lambda tensors: {"module": tensors}, ("module",)),
        (lambda tensors: {"model": {"state_dict": tensors}}, ("model", "state_dict")),
        (lambda tensors: {"params_ema": tensors, "params": {"small": torch.ones(1)}}, ("params_ema",)),
        (lambda tensors: {"optimizer": {"big": torch.ones(9999)}, "some": {"net_g": tensors}}, ("some", "net_g")),
        (lambda tensors: {"state_dict": tensors, "mean": torch.ones(3)}, ("state_dict",)),
        (lambda tensors: {"model": {}, "x": tensors}, ("x",)),
    ],
    ids=["state_dict", "model", "module", "two levels", "largest", "not the optimizer", "tensor beside", "empty model"],
)
def test_given_a_state_dict_in_an_entry_then_it_is_found_there(
    tmp_path: Path, wrap: Any, entry: tuple[str, ...], zipped: bool
) -> None:
    path = save(wrap(odd_tensors()), tmp_path / "a.pth", zipped=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.entry == entry
    expected = torch.load(path, weights_only=True)
    for key in entry:
        expected = expected[key]
    assert_as_torch_loads(checkpoint, expected)


@FORMATS
def test_given_a_training_checkpoint_then_what_lies_beside_the_model_is_counted(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Linear(30, 20)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    lightning = {
        "epoch": 1, "pytorch-lightning_version": "2.5.0", "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()], "hyper_parameters": {"lr": 0.1}, "callbacks": {},
    }  # fmt: skip
    checkpoint = read_checkpoint(save(lightning, tmp_path / "last.ckpt", zipped=zipped))
    assert {tensor.name for tensor in checkpoint.tensors} == {"weight", "bias"}
    moments = [tensor for tensor in checkpoint.beside if "exp_avg" in tensor.name]
    assert sorted(tensor.name for tensor in moments if tensor.elements == 20) == [
        "optimizer_states.0.state.1.exp_avg",
        "optimizer_states.0.state.1.exp_avg_sq",
    ]
    assert sum(tensor.storage.nbytes for tensor in checkpoint.beside) == 2 * checkpoint.nbytes + 2 * 4
    assert any("6 tensors of 4.85 KiB, which torch.load reads too: optimizer_states" in w for w in checkpoint.warnings)


def test_given_a_tensor_beside_in_the_models_own_storage_then_it_costs_nothing(tmp_path: Path) -> None:
    weight = torch.ones(4)
    assert read_checkpoint(save({"model": {"w": weight}, "ema": {"w": weight}}, tmp_path / "a.pt")).beside == ()


class Settings:
    """What people leave in hyper parameters."""

    def __init__(self) -> None:
        self.tensor = torch.ones(8)


@FORMATS
def test_given_objects_of_other_classes_then_they_are_named_and_the_rest_is_read(tmp_path: Path, zipped: bool) -> None:
    value = {
        "state_dict": {"w": torch.ones(3)},
        "args": argparse.Namespace(path=Path("/x"), names=["a"]),
        "default": collections.defaultdict(list, {"a": [1]}),
        "settings": Settings(),
    }
    path = save(value, tmp_path / "a.ckpt", zipped=zipped)
    checkpoint = read_checkpoint(path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
    assert [tensor.storage.nbytes for tensor in checkpoint.beside] == [32]
    assert {"argparse.Namespace", "pathlib.PosixPath", "collections.defaultdict"} <= set(checkpoint.untrusted)
    assert any("told to trust" in warning for warning in checkpoint.warnings)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)


@FORMATS
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: torch.nn.Linear(1, 1), ("whole pickled model (torch.nn.modules.linear.Linear)", "not executed")),
        (lambda: {"model": torch.nn.Linear(1, 1), "epoch": 3}, ("model (torch.nn.modules.linear.Linear)",)),
        (lambda: {"a": torch.ones(1), "s": torch.eye(2).to_sparse()}, ("tensor 's'", "_rebuild_sparse_tensor")),
        (lambda: {"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, ("'q'", "_rebuild_qtensor")),
        (lambda: {"own": torch.ones(2).as_subclass(Own)}, ("tensor 'own' of the class", "Own")),
        (lambda: [torch.ones(2)], ("single value: list",)),
        (lambda: {"a": 1}, ("no tensors but a (int)",)),
    ],
)  # fmt: skip
def test_given_no_plain_state_dict_then_it_is_named_with_what_to_do(
    tmp_path: Path, value: Any, words: tuple[str, ...], zipped: bool
) -> None:
    error = refused(save(value(), tmp_path / "a.pt", zipped=zipped), *words)
    assert error.hint


class Own(torch.Tensor):
    """A tensor of a class of its own."""


def test_given_a_torchscript_archive_then_it_is_named_with_what_to_do(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), str(tmp_path / "a.pt"))
    assert "torch.jit.load(file).state_dict()" in refused(tmp_path / "a.pt", "TorchScript").hint


def big_endian(path: Path, out: Path, item_bytes: list[int]) -> Path:
    """The archive as a machine of the other byte order would have written it."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                size = item_bytes[int(name.rpartition("/")[2])]
                content = b"".join(content[at : at + size][::-1] for at in range(0, len(content), size))
            target.writestr(name, content)
    return out


def test_given_a_big_endian_archive_then_it_is_read_as_torch_does(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(4), "h": torch.randn(3).half(), "b": torch.tensor([True])}
    path = big_endian(save(tensors, tmp_path / "a.pth"), tmp_path / "big.pth", [4, 2, 1])
    loaded = torch.load(path, weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items()), "torch turns the bytes round"
    checkpoint = read_checkpoint(path)
    assert checkpoint.files[0].big_endian
    assert "big-endian" in checkpoint.files[0].unmappable
    assert [tensor.name for tensor in checkpoint.tensors] == list(tensors)


def test_given_a_big_endian_tensor_that_torch_gets_wrong_then_it_is_refused(tmp_path: Path) -> None:
    tensors = {"u": torch.arange(3).to(torch.uint16)}
    path = big_endian(save(tensors, tmp_path / "a.pth"), tmp_path / "big.pth", [2])
    assert not torch.equal(torch.load(path, weights_only=True)["u"], tensors["u"]), "the reason for refusing it"
    refused(path, "'u' (uint16)", "wrong way round")


SHARDS = {"pytorch_model-00001-of-00002.bin": ("a", "b"), "pytorch_model-00002-of-00002.bin": ("c",)}


def save_shards(folder: Path) -> Tensors:
    tensors = {name: torch.randn(3, 4) for name in "abc"}
    for number, (file, names) in enumerate(SHARDS.items()):
        save({name: tensors[name] for name in names}, folder / file, zipped=bool(number))
    weight_map = {name: file for file, names in SHARDS.items() for name in names}
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 144}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text('{"model_type": "x"}')
    return tensors


@pytest.mark.parametrize("named", ["", "pytorch_model.bin.index.json"])
def test_given_shards_with_an_index_then_all_are_read_whatever_their_format(tmp_path: Path, named: str) -> None:
    tensors = save_shards(tmp_path / "m")
    save({"step": torch.ones(1)}, tmp_path / "m" / "optimizer.pt")
    checkpoint = read_checkpoint(tmp_path / "m" / named)
    assert checkpoint.layout == "torch-sharded"
    assert [file.name for file in checkpoint.files] == list(SHARDS)
    assert [bool(file.unmappable) for file in checkpoint.files] == [True, False]
    assert checkpoint.config == {"model_type": "x"}
    assert checkpoint.warnings == ()
    assert_as_torch_loads(checkpoint, tensors)


def test_given_one_shard_then_it_is_read_alone_without_the_config(tmp_path: Path) -> None:
    save_shards(tmp_path / "m")
    checkpoint = read_checkpoint(tmp_path / "m" / "pytorch_model-00002-of-00002.bin")
    assert (checkpoint.layout, checkpoint.config) == ("torch", None)
    assert "one shard" in checkpoint.warnings[0]


def test_given_pytorch_model_bin_then_its_config_is_read_and_others_are_named(tmp_path: Path) -> None:
    save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    save({"v": torch.ones(2)}, tmp_path / "adapter_model.bin")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.layout, checkpoint.config) == ("torch", {"model_type": "llama"})
    assert "adapter_model.bin" in checkpoint.warnings[0]


class TestLitgpt:
    YAML = """\
attn_bias: false
bias: false
hf_config:
  name: open_llama_3b
  org: openlm-research
name: open_llama_3b
n_embd: 3200
norm_eps: 1.0e-06
rotary_percentage: 1.0
intermediate_size: null
rope_adjustments: {}
quoted: 'a b'
"""

    def test_given_a_yaml_config_then_its_scalars_are_read(self, tmp_path: Path) -> None:
        save({"model": {"lm_head.weight": torch.ones(2)}}, tmp_path / "lit_model.pth")
        (tmp_path / "model_config.yaml").write_text(self.YAML)
        for path in (tmp_path, tmp_path / "lit_model.pth"):
            checkpoint = read_checkpoint(path)
            assert (checkpoint.layout, checkpoint.entry) == ("litgpt", ("model",))
            assert checkpoint.config == {
                "attn_bias": False, "bias": False, "name": "open_llama_3b", "n_embd": 3200, "norm_eps": 1e-6,
                "hf_config": {"name": "open_llama_3b", "org": "openlm-research"}, "rotary_percentage": 1.0,
                "intermediate_size": None, "rope_adjustments": {}, "quoted": "a b",
            }  # fmt: skip

    def test_given_the_older_config_or_none_then_the_weights_are_read(self, tmp_path: Path) -> None:
        save({"lm_head.weight": torch.ones(2)}, tmp_path / "lit_model.pth")
        assert read_checkpoint(tmp_path).config is None
        (tmp_path / "lit_config.json").write_text('{"n_embd": 8}')
        assert read_checkpoint(tmp_path).config == {"n_embd": 8}

    def test_given_a_config_that_is_no_text_then_a_warning_says_so(self, tmp_path: Path) -> None:
        save({"lm_head.weight": torch.ones(2)}, tmp_path / "lit_model.pth")
        (tmp_path / "model_config.yaml").write_bytes(b"\xff\xfe")
        assert "not text" in read_checkpoint(tmp_path).warnings[0]


class TestHuggingFaceCache:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        repository = tmp_path / "models--org--name"
        for revision in ("1111", "2222"):
            snapshot = repository / "snapshots" / revision
            save({"w": torch.ones(2)}, repository / "blobs" / f"hash{revision}")
            snapshot.mkdir(parents=True)
            (snapshot / "pytorch_model.bin").symlink_to(f"../../blobs/hash{revision}")
        (repository / "refs").mkdir()
        return repository

    def test_given_the_repository_then_the_snapshot_of_main_is_read(self, repository: Path) -> None:
        (repository / "refs" / "main").write_text("2222")
        assert read_checkpoint(repository).path == repository / "snapshots" / "2222"
        assert read_checkpoint(repository / "blobs" / "hash1111").layout == "torch"

    def test_given_several_snapshots_and_no_main_then_it_asks(self, repository: Path) -> None:
        error = refused(repository, "2 checkpoints: snapshots/1111 (snapshot), snapshots/2222 (snapshot)")
        assert isinstance(error, SeveralCheckpointsError)
        assert all(read_checkpoint(choice).tensors for choice in error.choices)

    @pytest.mark.parametrize("target", ["../../../secret.bin", "/etc/passwd", "../../blobs-not/secret.bin"])
    def test_given_a_link_out_of_the_repository_then_it_is_refused(
        self, repository: Path, tmp_path: Path, target: str
    ) -> None:
        save({"w": torch.ones(2)}, tmp_path / "secret.bin")
        save({"w": torch.ones(2)}, repository / "blobs-not" / "secret.bin")
        link = repository / "snapshots" / "1111" / "pytorch_model.bin"
        link.unlink()
        link.symlink_to(target)
        refused(repository / "snapshots" / "1111", "is a link out of the checkpoint's folder")

    def test_given_a_snapshot_that_is_a_link_then_it_is_none(self, repository: Path, tmp_path: Path) -> None:
        save({"w": torch.ones(2)}, tmp_path / "elsewhere" / "pytorch_model.bin")
        (repository / "snapshots" / "3333").symlink_to(tmp_path / "elsewhere")
        (repository / "refs" / "main").write_text("3333")
        refused(repository, "holds 2 checkpoints: snapshots/1111")

    def test_given_no_snapshot_then_it_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "snapshots").mkdir()
        refused(tmp_path, "without a snapshot")


def test_given_a_file_of_torch_beside_safetensors_then_both_are_listed(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    save_shards(tmp_path)
    refused(tmp_path, "model.safetensors (safetensors), pytorch_model.bin.index.json (torch-sharded)")
