from __future__ import annotations

import pytest

from meminspect.architectures import ARCHITECTURES, Headers
from meminspect.errors import CheckpointError

GPT2 = ARCHITECTURES["gpt2"]
MILLION = 10**6


def parameters(count: int, naming: str) -> int:
    architecture = GPT2.architecture(GPT2.for_parameters(count, naming), naming)
    return sum(p.elements for p in architecture.parameters if not p.buffer)


@pytest.mark.parametrize(
    ("nominal", "elements"),
    [
        (124, 124_439_808),
        (117, 124_439_808),
        (355, 354_823_168),
        (774, 774_030_080),
        (1558, 1_557_611_200),
        (1500, 1_557_611_200),
    ],
)
def test_published_models_have_their_published_number_of_parameters(nominal: int, elements: int) -> None:
    assert parameters(nominal * MILLION, "hf") == elements


@pytest.mark.parametrize("naming", GPT2.namings)
@pytest.mark.parametrize("count", [1, 3, 10, 50, 500, 3_000, 175_000, 500_000])
def test_scaled_models_come_within_three_percent(naming: str, count: int) -> None:
    assert parameters(count * MILLION, naming) == pytest.approx(count * MILLION, rel=0.03)


def test_teaching_xl_is_the_published_6_29_gib() -> None:
    config = GPT2.for_parameters(1558 * MILLION, "teaching")
    assert config == {
        "vocab_size": 50257,
        "context_length": 1024,
        "emb_dim": 1600,
        "n_heads": 25,
        "n_layers": 48,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }
    architecture = GPT2.architecture(config, "teaching")
    assert f"{architecture.elements * 4 / 2**30:.2f}" == "6.29"
    masks = [p for p in architecture.parameters if p.buffer]
    assert [(p.shape, p.dtype) for p in masks] == [((1024, 1024), None)] * 48


def test_teaching_names_and_order() -> None:
    config = {**GPT2.for_parameters(MILLION, "teaching"), "n_layers": 1}
    names = [p.name for p in GPT2.architecture(config, "teaching").parameters]
    assert names == [
        "tok_emb.weight",
        "pos_emb.weight",
        *(f"trf_blocks.0.att.{n}.{kind}" for n in ("W_query", "W_key", "W_value") for kind in ("weight", "bias")),
        "trf_blocks.0.att.out_proj.weight",
        "trf_blocks.0.att.out_proj.bias",
        "trf_blocks.0.att.mask",
        "trf_blocks.0.ff.layers.0.weight",
        "trf_blocks.0.ff.layers.0.bias",
        "trf_blocks.0.ff.layers.2.weight",
        "trf_blocks.0.ff.layers.2.bias",
        "trf_blocks.0.norm1.scale",
        "trf_blocks.0.norm1.shift",
        "trf_blocks.0.norm2.scale",
        "trf_blocks.0.norm2.shift",
        "final_norm.scale",
        "final_norm.shift",
        "out_head.weight",
    ]


def test_hf_names_follow_the_checkpoints_prefix_and_masks() -> None:
    config = GPT2.for_parameters(124 * MILLION, "hf")
    tensors = {"wte.weight": ((50257, 768), "float32"), "h.0.attn.bias": ((1, 1, 1024, 1024), "bool")}
    bare = GPT2.architecture(config, "hf", Headers(tensors=tensors)).parameters
    assert bare[0].name == "wte.weight"
    assert [(p.name, p.shape, p.dtype) for p in bare if p.buffer] == [("h.0.attn.bias", (1, 1, 1024, 1024), "bool")]
    plain = GPT2.architecture(config, "hf").parameters
    assert plain[0].name == "transformer.wte.weight"
    assert not any(p.buffer for p in plain)
    assert "lm_head.weight" not in {p.name for p in plain}


@pytest.mark.parametrize(("field", "value"), [("n_layer", 10**12), ("n_head", 7), ("n_positions", 0), ("n_embd", "9")])
def test_absurd_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        GPT2.architecture({**GPT2.for_parameters(MILLION, "hf"), field: value}, "hf")
