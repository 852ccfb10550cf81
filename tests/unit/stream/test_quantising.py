"""Quantised layers are filled with the nearest steps and codes, whatever reads them and how many do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from meminspect import staging
from meminspect.errors import StreamError
from meminspect.nf4 import NF4_CODES
from meminspect.stream import QuantisedLinear, load, quantise_linears
from meminspect.stream.quantising import NF4_ROOM, carved, quantise_nf4

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.stream.reading import Part

KINDS = pytest.mark.parametrize("kind", ["int8", "nf4"])
CODES = torch.tensor(NF4_CODES)


class Model(nn.Module):
    """Rows of 96 are no whole number of nf4's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 96)
        self.layers = nn.Sequential(nn.Linear(96, 130), nn.Tanh(), nn.Linear(130, 96, bias=False))
        self.head = nn.Linear(96, 50, bias=False)
        self.tied = nn.Linear(96, 50, bias=False)
        self.tied.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.layers(self.embedding(tokens))))


def saved(folder: Path, dtype: torch.dtype, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=random).to(dtype)
        for name, tensor in Model().state_dict().items()
        if name != "tied.weight"
    }
    tensors["layers.0.weight"][3] = 0  # a row, and blocks, without any scale
    if file.endswith(".pth"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)
    return tensors


def quantised_model(kind: str) -> nn.Module:
    return quantise_linears(Model(), kind, keep=["head"])


def expected(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and scales: by the nearest of all steps or codes, without any bins."""
    groups = weight.float().view(len(weight) if kind == "int8" else -1, weight.shape[1] if kind == "int8" else 64)
    largest = groups.abs().amax(1, keepdim=True)
    if kind == "int8":
        scale = (largest / 127).clamp(min=1e-30)
        return (groups / scale).round().to(torch.int8), scale
    scale = largest.clamp(min=1e-30)
    codes = ((groups / scale).unsqueeze(-1) - CODES).abs().argmin(-1).to(torch.uint8)
    return codes[:, ::2] * 16 + codes[:, 1::2], scale


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("file", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("threads", [1, 3])
def test_given_a_checkpoint_then_each_layer_is_quantised_and_all_else_is_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype, file: str, threads: int
) -> None:
    tensors = saved(tmp_path, dtype, file)
    monkeypatch.setattr("meminspect.stream.quantising.CHUNK_BYTES", 7000)  # several reads a weight
    monkeypatch.setattr(staging, "_ELEMENTS_AT_ONCE", 1000)  # several pieces a read

    model = load(lambda: quantised_model(kind), tmp_path, threads=threads)

    for name in ("layers.0", "layers.2"):
        layer = model.get_submodule(name)
        values, scale = expected(tensors[f"{name}.weight"], kind)
        assert isinstance(layer, QuantisedLinear)
        assert torch.equal(layer.weight, values)
        assert torch.equal(layer.scale, scale)
    for name in ("embedding.weight", "head.weight", "tied.weight", "layers.0.bias"):
        assert torch.equal(model.state_dict()[name], tensors[name.replace("tied", "embedding")])
    assert isinstance(model.get_submodule("head"), nn.Linear)


@KINDS
def test_a_loaded_layer_computes_with_what_its_values_stand_for(tmp_path: Path, kind: str) -> None:
    tensors = saved(tmp_path, torch.float32)
    model = load(lambda: quantised_model(kind), tmp_path)
    layer = model.get_submodule("layers.0")
    assert isinstance(layer, QuantisedLinear)
    weight, group = tensors["layers.0.weight"], 96 if kind == "int8" else 64
    largest = weight.view(-1, group).abs().amax(1, keepdim=True).expand(-1, group).reshape(weight.shape)
    inputs = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))

    assert ((layer.dequantised() - weight).abs() <= largest * (0.004 if kind == "int8" else 0.153)).all()
    assert torch.allclose(
        layer(inputs), nn.functional.linear(inputs, layer.dequantised(), tensors["layers.0.bias"]), atol=1e-6
    )
    assert model.get_submodule("layers.2")(torch.randn(2, 130).bfloat16()).dtype == torch.bfloat16


@given(st.lists(st.floats(-1, 1, width=32), min_size=63, max_size=63))
def test_a_code_is_the_one_that_a_search_among_all_bounds_finds(values: list[float]) -> None:
    bounds = (CODES[1:] + CODES[:-1]) / 2
    near = torch.cat([bounds, bounds.nextafter(torch.tensor(2.0)), bounds.nextafter(torch.tensor(-2.0))])
    edges = torch.arange(-16, 17) / 16
    given_ = torch.cat([torch.tensor(values), near, edges, edges.nextafter(torch.tensor(-2.0)).clamp(min=-1)])
    groups = torch.nn.functional.pad(given_, (0, -len(given_) % 63)).view(-1, 63)
    groups = torch.cat([groups, torch.ones(len(groups), 1)], 1)  # so that the scale is 1
    packed, scale = torch.empty(len(groups), 32, dtype=torch.uint8), torch.empty(len(groups), 1)
    scratch = torch.empty(staging.scratch_bytes("nf4", 64), dtype=torch.uint8)

    quantise_nf4(groups, packed, scale, *carved(scratch, (len(groups), 64), NF4_ROOM))

    found = torch.stack((packed >> 4, packed & 15), -1).flatten(1)
    assert torch.equal(found.long(), torch.bucketize(groups, bounds))


def test_what_is_not_a_number_is_no_reason_to_fail(tmp_path: Path) -> None:
    tensors = saved(tmp_path, torch.float32)
    tensors["layers.0.weight"][0, 0] = torch.nan
    tensors["layers.0.weight"][1, 0] = torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    for kind in ("int8", "nf4"):
        load(lambda kind=kind: quantised_model(kind), tmp_path)  # type: ignore[misc]


def test_the_number_of_torchs_threads_stays_what_it_was(tmp_path: Path) -> None:
    saved(tmp_path, torch.float32)
    others: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        load(lambda: quantised_model("int8"), tmp_path, threads=2)
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), others) == (3, [3])
    finally:
        torch.set_num_threads(before)


class Watched:
    def __init__(self) -> None:
        self.begun: list[Part] = []
        self.assignments: list[tuple[str, int]] = []

    def begins(self, part: Part) -> None:
        self.begun.append(part)

    def ends(self, part: Part) -> None: ...

    def drops(self, part: Part) -> None: ...

    def assigned(self, name: str, tensor: torch.Tensor) -> None:
        self.assignments.append((name, tensor.nbytes))


@KINDS
def test_an_observer_is_told_of_values_scales_and_a_bounded_staging(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, torch.float16)
    watched = Watched()

    load(lambda: quantised_model(kind), tmp_path, threads=2, observer=watched)

    told = {(part.name, part.tensor.nbytes) for part in watched.begun}
    sizes = (96 * 130, 130 * 4) if kind == "int8" else (96 * 65, 96 * 130 // 64 * 4)
    assert {("layers.0.weight", nbytes) for nbytes in sizes} <= told
    assert {("layers.0.weight", nbytes) for nbytes in sizes} <= set(watched.assignments)
    staged = [part.tensor.nbytes for part in watched.begun if part.stored is None]
    group = 130 if kind == "int8" else 64
    assert max(staged) <= 96 * 130 * 2 + 512 + staging.scratch_bytes(kind, group)


def test_what_cannot_be_quantised_is_an_error_with_its_name(tmp_path: Path) -> None:
    tensors = saved(tmp_path, torch.float32)
    with pytest.raises(ValueError, match="'1' cannot be quantised: nf4 takes 64 values at a time, and a weight has 15"):
        quantise_linears(nn.Sequential(nn.ReLU(), nn.Linear(3, 5)), "nf4")
    with pytest.raises(ValueError, match="use one of int8, nf4"):
        QuantisedLinear(nn.Linear(64, 64), "fp4")
    tensors["layers.0.weight"] = tensors["layers.0.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StreamError, match=r"'layers.0.weight' is stored as int8, and cannot be quantised"):
        load(lambda: quantised_model("int8"), tmp_path)
    tensors["layers.0.weight"] = torch.randn(96, 130).T
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(StreamError, match=r"'layers.0.weight' is stored not row by row"):
        load(lambda: quantised_model("int8"), tmp_path / "model.pth")


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = self.first


def test_a_layer_that_is_in_two_places_stays_one_layer(tmp_path: Path) -> None:
    save_file({"first.weight": torch.randn(64, 64)}, tmp_path / "model.safetensors")

    model = load(lambda: quantise_linears(Sharing(), "int8"), tmp_path)

    assert isinstance(model, Sharing)
    assert isinstance(model.first, QuantisedLinear)
    assert model.second is model.first
    assert isinstance(quantise_linears(Sharing(), "int8", keep=["second"]).get_submodule("first"), nn.Linear)


def test_a_name_to_keep_that_no_module_has_is_an_error() -> None:
    with pytest.raises(AttributeError, match="haed"):
        quantise_linears(Model(), "int8", keep=["haed"])


def test_given_another_shape_then_the_model_is_untouched_and_the_error_has_both(tmp_path: Path) -> None:
    tensors = saved(tmp_path, torch.float32)
    tensors["layers.0.weight"] = torch.randn(96, 130)
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = quantised_model("nf4")

    with pytest.raises(StreamError, match=r"'layers.0.weight' is \[96, 130\] in the checkpoint and \[130, 96\] in"):
        load(model, tmp_path)

    assert all(parameter.is_meta for parameter in model.parameters())
