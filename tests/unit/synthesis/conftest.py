from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meminspect.architectures import Architecture, Parameter
from meminspect.synthesis import SynthesisSpec, architecture_for, naming_for, synthesise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIGS: dict[tuple[str, str], dict[str, object]] = {
    ("llama", "meta"): {
        "dim": 96, "n_layers": 2, "n_heads": 4, "vocab_size": 400, "multiple_of": 32, "norm_eps": 1e-5,
    },
    ("llama", "hf"): {
        "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 400, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    },
    ("gpt2", "hf"): {
        "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 300,
        "bos_token_id": 1, "eos_token_id": 1,
    },
    ("litgpt", "litgpt"): {
        "n_embd": 64, "n_head": 4, "n_layer": 2, "padded_vocab_size": 300, "n_query_groups": 2,
    },
    ("gpt2", "teaching"): {
        "emb_dim": 64, "n_heads": 4, "n_layers": 2, "context_length": 32, "vocab_size": 300, "qkv_bias": True,
    },
}  # fmt: skip


@pytest.fixture
def small() -> Callable[[str, str], Architecture]:
    """A model of some ten thousand parameters: (architecture, layout) → Architecture."""

    def build(architecture_id: str, layout: str) -> Architecture:
        config = CONFIGS[architecture_id, naming_for(architecture_id, layout)]
        return architecture_for(architecture_id, layout, config=config)

    return build


@pytest.fixture
def write(tmp_path: Path, small: Callable[[str, str], Architecture]) -> Callable[..., Path]:
    """Synthesises into a new folder: (architecture, layout, **fields of the spec) → that folder."""
    count = 0

    def run(architecture: str | Architecture, layout: str, **fields: Any) -> Path:
        nonlocal count
        count += 1
        if isinstance(architecture, str):
            architecture = small(architecture, layout)
        return synthesise(SynthesisSpec(tmp_path / f"checkpoint-{count}", architecture, layout, **fields))

    return run


@pytest.fixture
def odd() -> Architecture:
    """What real models seldom have: many dtypes, a scalar, an empty tensor, tied weights, a name beyond ASCII."""
    return Architecture(
        "gpt2",
        "hf",
        {},
        (
            Parameter("wte.weight", (30, 8)),
            Parameter("h.0.attn.bias", (1, 1, 5, 5), buffer=True, dtype="bool"),
            Parameter("position", (7,), buffer=True, dtype="int64"),
            Parameter("scalar", (), dtype="float64"),
            Parameter("empty", (0, 3)),
            Parameter("narrow", (4, 3, 2, 5), dtype="float8_e4m3fn"),
            Parameter("größe.weight", (1, 1)),
            Parameter("half", (3,), dtype="bfloat16"),
            Parameter("a.weight", (9,), dtype="float64"),
            Parameter("lm_head.weight", (30, 8), tied_to="wte.weight"),
        ),
    )
