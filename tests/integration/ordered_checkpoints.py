"""Small checkpoints of many kinds, by the names that tests of the order of events have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from meminspect.architectures import ARCHITECTURES
from meminspect.synthesis import SynthesisSpec, synthesise, tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write"]

_META: dict[str, object] = {
    "dim": 96, "n_layers": 2, "n_heads": 4, "vocab_size": 400, "multiple_of": 32, "norm_eps": 1e-5,
}  # fmt: skip
_HF: dict[str, object] = {
    "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 400, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip


_GPT2: dict[str, object] = {  # rows of more than one block that is quantised at a time
    "n_embd": 96, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip


def _odd(*, shared: bool) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 8, generator=random).half()
    tensors = {
        "empty": torch.empty(0, 3).half(),
        "first.weight": weight,
        "scalar": torch.tensor(3.0),
        "a.b.c": torch.randn(7, 5, generator=random),
        "ids": torch.arange(12),
        "transposed": torch.randn(6, 10, generator=random).half().t(),
        "slice": torch.randn(6, 10, generator=random)[:, 2:5],
        "flag": torch.tensor(True),
        "a.x": torch.randn(3, generator=random).bfloat16(),
    }
    if shared:
        return {**tensors, "tied.weight": weight}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """A checkpoint of a name, and the tiny one that its worker warms up on."""
    layout, _, files = name.partition(" ")
    out, tiny = folder / name.replace(" ", "-"), folder / f"tiny-{name.replace(' ', '-')}"
    if name == "odd pth":
        out.mkdir()
        torch.save(_odd(shared=True), out / "consolidated.00.pth")
        return out, tiny_checkpoint("llama", "meta", "meta", "float16", tiny)
    if name == "odd safetensors":
        out.mkdir()
        save_file(_odd(shared=False), out / "model.safetensors")
        return out, tiny_checkpoint("llama", "hf", "safetensors", "float16", tiny)
    if layout == "gpt2":
        architecture = ARCHITECTURES["gpt2"].architecture(_GPT2, "hf")
        synthesise(SynthesisSpec(out, architecture, "safetensors", "float32", int(files)))
        return out, tiny_checkpoint("gpt2", "hf", "safetensors", "float32", tiny)
    naming, config = ("meta", _META) if layout in ("meta", "per-tensor") else ("hf", _HF)
    architecture = ARCHITECTURES["llama"].architecture(config, naming)
    synthesise(SynthesisSpec(out, architecture, layout, "float16", int(files)))
    return out, tiny_checkpoint("llama", naming, layout, "float16", tiny, shards=int(files))
