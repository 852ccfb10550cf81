from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meminspect.architectures import ARCHITECTURES, Headers
from meminspect.architectures._llama_sizes import _PUBLISHED
from meminspect.architectures.llama import hidden_size, read_shape
from meminspect.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from meminspect.architectures.model import Architecture

LLAMA = ARCHITECTURES["llama"]
BILLION = 10**9

META: dict[str, object] = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "multiple_of": 32}
HF: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {parameter.name: parameter.shape for parameter in architecture.parameters}


@pytest.mark.parametrize("naming", LLAMA.namings)
@pytest.mark.parametrize(
    ("nominal", "elements"),
    [
        (7 * BILLION, 6_738_415_616),
        (13 * BILLION, 13_015_864_320),
        (33 * BILLION, 32_528_943_616),
        (65 * BILLION, 65_285_660_672),
        (70 * BILLION, 68_976_648_192),
        (8 * BILLION, 8_030_261_248),
        (405 * BILLION, 405_853_388_800),
        (1_100_000_000, 1_100_048_384),
    ],
)
def test_published_models_have_their_published_number_of_parameters(naming: str, nominal: int, elements: int) -> None:
    assert LLAMA.architecture(LLAMA.for_parameters(nominal, naming), naming).elements == elements


@pytest.mark.parametrize("naming", LLAMA.namings)
@pytest.mark.parametrize("count", [10**6, 3 * 10**6, 10**7, 124 * 10**6, 10**9, 20 * 10**9, 175 * 10**9, 500 * 10**9])
def test_scaled_models_come_within_three_percent(naming: str, count: int) -> None:
    architecture = LLAMA.architecture(LLAMA.for_parameters(count, naming), naming)
    assert architecture.elements == pytest.approx(count, rel=0.03)


def test_a_model_too_small_to_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="about 10 parameters"):
        LLAMA.for_parameters(10, "hf")


def test_table_of_published_sizes_agrees_with_the_formulas() -> None:
    for size in _PUBLISHED.values():
        assert hidden_size(size.dim, size.multiple_of, size.multiplier) == size.hidden
        config = LLAMA.for_parameters(size.elements, "meta")
        assert LLAMA.architecture(config, "meta").elements == size.elements


def test_meta_names_shapes_and_order() -> None:
    architecture = LLAMA.architecture({**META, "n_layers": 1, "n_kv_heads": 2}, "meta")
    assert list(shapes(architecture).items()) == [
        ("tok_embeddings.weight", (100, 64)),
        ("layers.0.attention.wq.weight", (64, 64)),
        ("layers.0.attention.wk.weight", (32, 64)),
        ("layers.0.attention.wv.weight", (32, 64)),
        ("layers.0.attention.wo.weight", (64, 64)),
        ("layers.0.feed_forward.w1.weight", (192, 64)),
        ("layers.0.feed_forward.w2.weight", (64, 192)),
        ("layers.0.feed_forward.w3.weight", (192, 64)),
        ("layers.0.attention_norm.weight", (64,)),
        ("layers.0.ffn_norm.weight", (64,)),
        ("norm.weight", (64,)),
        ("output.weight", (100, 64)),
    ]


def test_model_parallel_files_slice_as_meta_does() -> None:
    split = {p.name: p.split_dim for p in LLAMA.architecture({**META, "n_layers": 1}, "meta").parameters}
    assert [name for name, dim in split.items() if dim == 0] == [
        "layers.0.attention.wq.weight",
        "layers.0.attention.wk.weight",
        "layers.0.attention.wv.weight",
        "layers.0.feed_forward.w1.weight",
        "layers.0.feed_forward.w3.weight",
        "output.weight",
    ]
    assert [name for name, dim in split.items() if dim == 1] == [
        "tok_embeddings.weight",
        "layers.0.attention.wo.weight",
        "layers.0.feed_forward.w2.weight",
    ]


@pytest.mark.parametrize(("piece", "split_dim"), [((100, 32), 1), ((50, 64), 0)])
def test_embedding_is_split_as_its_piece_says_and_a_vocabulary_of_minus_one_follows_from_it(
    piece: tuple[int, ...], split_dim: int
) -> None:
    headers = Headers(tensors={"tok_embeddings.weight": (piece, "float16")}, parallel_files=2)
    architecture = LLAMA.architecture({**META, "vocab_size": -1}, "meta", headers)
    assert architecture.parameters[0].shape == (100, 64)
    assert architecture.parameters[0].split_dim == split_dim
    assert architecture.config["vocab_size"] == 100


def test_llama3_embedding_is_split_by_vocabulary_without_a_piece_to_tell() -> None:
    architecture = LLAMA.architecture(LLAMA.for_parameters(8 * BILLION, "meta"), "meta")
    assert architecture.parameters[0].split_dim == 0


def test_rope_frequencies_are_buffers_where_the_checkpoint_has_them() -> None:
    once = Headers(tensors={"rope.freqs": ((8,), "bfloat16")})
    assert LLAMA.architecture(META, "meta", once).parameters[-1].name == "rope.freqs"
    each = Headers(tensors={f"layers.{i}.attention.inner_attention.rope.freqs": ((8,), "float32") for i in range(2)})
    buffers = [p for p in LLAMA.architecture(META, "meta", each).parameters if p.buffer]
    assert [(p.shape, p.dtype, p.split_dim) for p in buffers] == [((8,), None, None)] * 2


def test_hf_biases_head_width_and_grouped_queries() -> None:
    config = {**HF, "num_key_value_heads": 2, "head_dim": 32, "attention_bias": True, "mlp_bias": True}
    found = shapes(LLAMA.architecture(config, "hf"))
    assert found["model.layers.0.self_attn.q_proj.weight"] == (128, 64)
    assert found["model.layers.0.self_attn.k_proj.bias"] == (64,)
    assert found["model.layers.0.self_attn.o_proj.weight"] == (64, 128)
    assert found["model.layers.0.mlp.down_proj.bias"] == (64,)


def test_hf_tied_head_is_absent_unless_the_checkpoint_has_it() -> None:
    config = {**HF, "tie_word_embeddings": True}
    absent = LLAMA.architecture(config, "hf")
    assert "lm_head.weight" not in shapes(absent)
    present = LLAMA.architecture(config, "hf", Headers(tensors={"lm_head.weight": ((100, 64), "float16")}))
    assert present.parameters[-1].tied_to == "model.embed_tokens.weight"
    assert present.elements == absent.elements


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": None},
    ],
)
def test_rope_base_of_either_generation_of_transformers(fields: dict[str, object]) -> None:
    assert read_shape({**HF, **fields}, "hf").rope.theta == 5e5


@pytest.mark.parametrize(
    ("naming", "field", "value"),
    [
        ("meta", "n_layers", 10**12),
        ("meta", "dim", -4096),
        ("meta", "dim", 64.0),
        ("meta", "dim", True),
        ("meta", "n_heads", "4"),
        ("meta", "n_heads", 3),
        ("meta", "n_kv_heads", 3),
        ("meta", "vocab_size", -2),
        ("meta", "vocab_size", -1),
        ("meta", "multiple_of", 0),
        ("meta", "ffn_dim_multiplier", float("nan")),
        ("meta", "norm_eps", [1e-5]),
        ("meta", "rope_theta", 10**400),
        ("meta", "use_scaled_rope", "yes\nno"),
        ("hf", "num_hidden_layers", 10**12),
        ("hf", "hidden_size", None),
        ("hf", "intermediate_size", {"a": 1}),
        ("hf", "rms_norm_eps", -1),
        ("hf", "rope_parameters", "llama3"),
        ("hf", "tie_word_embeddings", 1),
    ],
)
def test_absurd_fields_are_named_in_one_line(naming: str, field: str, value: Any) -> None:
    config = {**(META if naming == "meta" else HF), field: value}
    with pytest.raises(CheckpointError, match=field) as raised:
        LLAMA.architecture(config, naming)
    assert len(raised.value.message.splitlines()) == 1
    assert len(raised.value.message) < 250


@pytest.mark.parametrize(("naming", "change"), [("meta", {"dim": 60}), ("hf", {"head_dim": 15})])
def test_heads_of_odd_width_are_refused(naming: str, change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="15 wide"):
        LLAMA.architecture({**(META if naming == "meta" else HF), **change}, naming)
