from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import SynthesisSpec, synthesise
from meminspect.worker import models
from meminspect.worker.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

META: dict[str, object] = {
    "dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 40, "multiple_of": 16, "norm_eps": 1e-5,
}  # fmt: skip

TENSORS = {
    "matrix": torch.randn(7, 5, generator=torch.Generator().manual_seed(1)),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "not a number": torch.tensor([float("nan"), 1.0, float("-inf"), -0.0]),
    "half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "ids": torch.arange(9).reshape(3, 3),
    "flag": torch.tensor(True),
    "transposed": torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).t(),
}


def loaded(task: LoadTask, tensors: dict[str, torch.Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = models.build(task.architecture)
    model.load_state_dict(tensors, assign=True, strict=False)
    return model


@pytest.fixture(params=["safetensors", "pth"])
def task(request: pytest.FixtureRequest, tmp_path: Path) -> LoadTask:
    if request.param == "pth":
        torch.save(TENSORS, tmp_path / "consolidated.00.pth")
    else:
        save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")
    return task_for(read_checkpoint(tmp_path), LoadOptions())


def test_a_model_that_holds_the_checkpoint_is_verified_tensor_by_tensor(task: LoadTask) -> None:
    found = verify(loaded(task, TENSORS), task)
    assert found == {
        "expected": 8, "verified": 8, "mismatched": 0, "missing": 0, "unexpected": 0,
        "names": {"mismatched": [], "missing": [], "unexpected": []},
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name, tensor in TENSORS.items() if tensor.numel()])
def test_a_single_wrong_bit_is_found(name: str, task: LoadTask) -> None:
    wrong = TENSORS[name].clone().contiguous()
    last = wrong.view(-1)[-1:].view(torch.uint8)
    last ^= 1
    found = verify(loaded(task, {**TENSORS, name: wrong}), task)
    assert found["names"] == {"mismatched": [name], "missing": [], "unexpected": []}
    assert (found["verified"], found["mismatched"]) == (7, 1)


def test_a_cast_model_is_compared_with_the_cast_checkpoint(task: LoadTask) -> None:
    cast = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in TENSORS.items()}
    assert verify(loaded(task, cast), task)["verified"] == 8
    cast["matrix"] = cast["matrix"] + 1
    assert verify(loaded(task, cast), task)["mismatched"] == 1


def test_what_is_stored_conjugated_or_negated_is_compared_by_its_values(tmp_path: Path) -> None:
    numbers = torch.randn(5, 3, dtype=torch.complex64)
    lazy = {"conj": numbers.conj(), "neg": torch._neg_view(torch.randn(7)), "half": numbers.clone().conj().imag}
    torch.save(lazy, tmp_path / "w.pth")
    task = task_for(read_checkpoint(tmp_path), LoadOptions())
    resolved = {name: tensor.resolve_conj().resolve_neg() for name, tensor in lazy.items()}

    assert verify(loaded(task, lazy), task)["verified"] == 3
    assert verify(loaded(task, resolved), task)["verified"] == 3
    assert verify(loaded(task, {**resolved, "conj": numbers}), task)["mismatched"] == 1


def test_what_only_one_side_has_is_named(task: LoadTask) -> None:
    model = loaded(task, TENSORS)
    del model._parameters["matrix"]
    model.register_buffer("extra", torch.zeros(1))
    found = verify(model, task)
    assert found["names"] == {"mismatched": [], "missing": ["extra"], "unexpected": ["matrix"]}
    assert (found["expected"], found["verified"], found["missing"], found["unexpected"]) == (8, 7, 1, 1)


def test_a_tensor_left_on_meta_or_of_another_shape_is_wrong(task: LoadTask) -> None:
    model = loaded(task, TENSORS)
    model._parameters["matrix"] = nn.Parameter(torch.empty(7, 5, device="meta"))
    model._parameters["half"] = nn.Parameter(TENSORS["half"].reshape(3, 2))
    found = verify(model, task)
    assert (found["verified"], found["mismatched"]) == (6, 2)


@pytest.fixture
def slices(tmp_path: Path) -> tuple[LoadTask, dict[str, torch.Tensor]]:
    """A checkpoint in two model-parallel files, and its tensors joined."""
    architecture = ARCHITECTURES["llama"].architecture(META, "meta")
    task = task_for(
        read_checkpoint(synthesise(SynthesisSpec(tmp_path / "slices", architecture, "meta", "float16", 2))),
        LoadOptions(),
    )
    shards = [torch.load(file.path, weights_only=True) for file in task.checkpoint.files]
    joined = {
        name: shards[0][name] if dim is None else torch.cat([shard[name] for shard in shards], dim)
        for name, dim in task.split_dims.items()
    }
    return task, joined


def test_joined_slices_are_compared_each_with_its_file(slices: tuple[LoadTask, dict[str, torch.Tensor]]) -> None:
    task, joined = slices
    assert verify(loaded(task, joined), task)["verified"] == len(joined)
    for name in ("tok_embeddings.weight", "layers.0.attention.wq.weight", "norm.weight"):
        wrong = joined[name].clone()
        wrong.view(-1)[-1] += 1
        assert verify(loaded(task, {**joined, name: wrong}), task)["mismatched"] == 1, name


def test_a_wide_tensor_is_read_through_a_small_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given one row that is wider than the buffer
    from meminspect.worker import verify as module

    monkeypatch.setattr(module, "_CHUNK_BYTES", 1 << 10)
    sizes: list[int] = []
    real = module._read

    def read(descriptor: int, offset: int, nbytes: int) -> bytearray:
        sizes.append(nbytes)
        return real(descriptor, offset, nbytes)

    monkeypatch.setattr(module, "_read", read)
    tensors = {"row": torch.arange(4096.0).reshape(1, 4096), "tall": torch.arange(4096.0).reshape(4096, 1)}
    save_file(tensors, tmp_path / "model.safetensors")
    task = task_for(read_checkpoint(tmp_path), LoadOptions())
    assert verify(loaded(task, tensors), task)["verified"] == 2
    assert max(sizes) <= 1 << 10
