"""Checkpoints to run the command on, by name: small sound ones, and ones that are not as a model would have them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMETERS = 3_000_000
BIG_PARAMETERS = 100_000_000
ABSURD_PARAMETERS = 500_000_000_000

Tensors = dict[str, torch.Tensor]


def sound(
    out: Path, layout: str, *, parameters: int = PARAMETERS, architecture: str = "llama", sparse: bool = False,
    shards: int = 1, dtype: str = "float16",
) -> Path:  # fmt: skip
    """A checkpoint as its tool would have written it."""
    model = architecture_for(architecture, layout, parameters=parameters)
    return synthesise(SynthesisSpec(out, model, layout, dtype, shards, sparse=sparse))


def _changed(change: Callable[[Tensors], Tensors]) -> Callable[[Path], Path]:
    """One in safetensors whose tensors have been changed."""

    def write(out: Path) -> Path:
        sound(out, "safetensors")
        file = out / "model.safetensors"
        save_file(change(dict(load_file(file))), file)
        return out

    return write


def _without_norm(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}


def _random_bits(tensors: Tensors) -> Tensors:
    """NaN of every payload among them, infinities and denormals."""
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(-(2**15), 2**15, tensor.shape, dtype=torch.int16, generator=random).view(torch.float16)
        for name, tensor in tensors.items()
    }


def _slices_without_norm(out: Path) -> Path:
    sound(out, "meta", shards=2)
    for file in out.glob("*.pth"):
        tensors = torch.load(file, weights_only=True)
        del tensors["norm.weight"]
        torch.save(tensors, file)
    return out


_WRITERS: dict[str, Callable[[Path], Path]] = {
    "meta": lambda out: sound(out, "meta"),
    "slices": lambda out: sound(out, "meta", shards=2),
    "shards": lambda out: sound(out, "safetensors", shards=3),
    "big": lambda out: sound(out, "meta", parameters=BIG_PARAMETERS),
    "absurd": lambda out: sound(out, "safetensors", parameters=ABSURD_PARAMETERS, shards=4, sparse=True),
    "without a norm": _changed(_without_norm),
    "with an extra tensor": _changed(lambda tensors: {**tensors, "extra.bias": torch.ones(3).half()}),
    "slices without a norm": _slices_without_norm,
    "random bits": _changed(_random_bits),
    "empty": _changed(lambda _: {"a.weight": torch.empty(0, 3), "b.bias": torch.empty(0)}),
}


class Variants:
    """Writes each variant when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Path:
        out = self._folder / name.replace(" ", "-")
        return out if out.exists() else _WRITERS[name](out)

    def at(self, name: str, path: Path) -> Path:
        """A copy of a variant at a path."""
        shutil.copytree(self[name], path)
        return path
