"""Small checkpoints of every layout, as tasks: what theory and recipes are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import read_checkpoint
from meminspect.dtypes import bytes_of
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import SynthesisSpec, synthesise

if TYPE_CHECKING:
    from pathlib import Path

_META: dict[str, object] = {
    "dim": 96, "n_layers": 2, "n_heads": 4, "vocab_size": 400, "multiple_of": 32, "norm_eps": 1e-5,
}  # fmt: skip
_HF: dict[str, object] = {
    "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 400, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
_TEACHING: dict[str, object] = {
    "emb_dim": 64, "n_heads": 4, "n_layers": 2, "context_length": 32, "vocab_size": 300, "qkv_bias": True,
}  # fmt: skip
_GPT2: dict[str, object] = {
    "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip

# name → architecture, naming, its config, layout, files
_SYNTHESISED: dict[str, tuple[str, str, dict[str, object], str, int]] = {
    "meta": ("llama", "meta", _META, "meta", 1),
    "meta 2": ("llama", "meta", _META, "meta", 2),
    "safetensors": ("llama", "hf", _HF, "safetensors", 1),
    "safetensors 3": ("llama", "hf", _HF, "safetensors", 3),
    "teaching": ("gpt2", "teaching", _TEACHING, "safetensors", 1),
    "gpt2": ("gpt2", "hf", _GPT2, "safetensors", 1),
}
NAMES = (*_SYNTHESISED, "odd pth", "odd safetensors")


def cells(*options: dict[str, str]) -> list[tuple[str, str, dict[str, str]]]:
    """Strategy, checkpoint and options, for each checkpoint of a known architecture and others that suit."""
    quantised = {"quantisation": "nf4"}
    return [
        (id_, name, chosen)
        for id_, strategy in NATIVE.items()
        for name in NAMES
        for chosen in (*options, *([quantised] if strategy.quantises else []))
        if not (strategy.changes and name.startswith("odd"))  # which have no linear layers that anybody knows of
    ]


def odd_tensors(*, shared: bool) -> dict[str, torch.Tensor]:
    """What real models seldom have: empty and 0-d tensors, integers, a bool, views, gaps, and tied weights."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 8, generator=random).half()
    tensors = {
        "empty": torch.empty(0, 3).half(),
        "first.weight": weight,
        "scalar": torch.tensor(3.0),
        "a.b.c": torch.randn(7, 5, generator=random),
        "ids": torch.arange(12),
        "tied.weight": weight,
        "transposed": torch.randn(6, 10, generator=random).half().t(),
        "slice": torch.randn(6, 10, generator=random)[:, 2:5],
        "flag": torch.tensor(True),
        "a.x": torch.randn(3, generator=random).bfloat16(),
    }
    if shared:
        return tensors
    del tensors["tied.weight"]
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of a name below a folder."""
    out = folder / name.replace(" ", "-")
    if name in _SYNTHESISED:
        family, naming, config, layout, files = _SYNTHESISED[name]
        architecture = ARCHITECTURES[family].architecture(config, naming)
        return synthesise(SynthesisSpec(out, architecture, layout, "float16", files))
    out.mkdir()
    if name == "odd pth":
        torch.save(odd_tensors(shared=True), out / "consolidated.00.pth")
    else:
        save_file(odd_tensors(shared=False), out / "model.safetensors")
    return out


@dataclass(frozen=True)
class Tasks:
    """Checkpoints by name, written when they are first asked for."""

    folder: Path

    def __call__(self, name: str, **options: Any) -> LoadTask:
        return task_for(read_checkpoint(self.path(name)), LoadOptions(**options))

    def path(self, name: str) -> Path:
        path = self.folder / name.replace(" ", "-")
        return path if path.exists() else write_checkpoint(name, self.folder)


def initial_bytes(task: LoadTask) -> int:
    """W: the model as it is first built, tied parameters once."""
    return sum(
        bytes_of(task.initial_dtype(parameter), parameter.elements)
        for parameter in task.architecture.parameters
        if parameter.tied_to is None
    )
