"""LLaMA by its headers: Meta's params.json and tensor names, and Hugging Face's.

Sources: github.com/meta-llama/llama, llama/model.py, and llama-models, models/llama3/model.py, for Meta's;
transformers, models/llama/modeling_llama.py, for Hugging Face's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.architectures import _llama_sizes
from meminspect.architectures._fields import (
    MAX_LAYERS,
    MAX_VOCABULARY,
    boolean,
    check_divides,
    head_is_tied,
    integer,
    number,
)
from meminspect.architectures.family import Family, Headers, buffer, mismatch, quoted
from meminspect.architectures.model import Architecture, Parameter
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meminspect.architectures.family import Recognised

__all__ = ["FAMILY", "LlamaShape", "Rope", "read_shape"]

ROPE_KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding: base, and how its frequencies are stretched for long contexts."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The hyper-parameters, whichever file they came from."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    norm_eps: float
    rope: Rope
    attention_bias: bool = False
    mlp_bias: bool = False


def read_shape(config: Mapping[str, object], naming: str, headers: Headers | None = None) -> LlamaShape:
    """The hyper-parameters in a params.json ("meta") or a config.json ("hf").

    Raises:
        CheckpointError: a field is missing or absurd.
    """
    return _meta_shape(config, headers or Headers()) if naming == "meta" else _hf_shape(config)


def hidden_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Width of the feed-forward layer (meta-llama/llama, llama/model.py, FeedForward.__init__)."""
    hidden = 2 * (4 * dim) // 3
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple_of) * multiple_of


def _meta_shape(config: Mapping[str, object], headers: Headers) -> LlamaShape:
    dim = integer(config, "dim")
    heads = integer(config, "n_heads")
    kv_heads = integer(config, "n_kv_heads", default=heads)
    check_divides(config, "n_heads", heads, "dim", dim)
    check_divides(config, "n_kv_heads", kv_heads, "n_heads", heads)
    multiplier = None
    if config.get("ffn_dim_multiplier") is not None:
        multiplier = number(config, "ffn_dim_multiplier", default=1.0, high=100)
    theta = number(config, "rope_theta", default=10_000.0)
    rope = Rope(theta)
    if boolean(config, "use_scaled_rope"):
        # params.json carries no factor: 8 is the constant of the 3.1 reference code.
        rope = Rope(theta, "llama3", number(config, "rope_scaling_factor", default=8.0))
    return LlamaShape(
        dim=dim,
        hidden_dim=hidden_size(dim, integer(config, "multiple_of", default=256), multiplier),
        layers=integer(config, "n_layers", high=MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_even_head(dim // heads),
        vocabulary=_meta_vocabulary(config, dim, headers),
        norm_eps=number(config, "norm_eps", default=1e-5, high=1),
        rope=rope,
    )


def _even_head(head_dim: int) -> int:
    """Rotary embeddings turn pairs."""
    if head_dim % 2:
        raise CheckpointError(f"the checkpoint's config: its heads are {head_dim} wide, not an even number")
    return head_dim


def _meta_vocabulary(config: Mapping[str, object], dim: int, headers: Headers) -> int:
    """LLaMA 1 and 2 say -1, "ask the tokenizer"; the embedding knows as well."""
    if config.get("vocab_size", -1) != -1:
        return integer(config, "vocab_size", high=MAX_VOCABULARY)
    shape = headers.tensors.get("tok_embeddings.weight", ((), ""))[0]
    if len(shape) != 2:
        raise CheckpointError("the checkpoint's config: vocab_size is -1, and no embedding tells it")
    return shape[0] * (headers.parallel_files if shape[1] == dim else 1)


def _hf_shape(config: Mapping[str, object]) -> LlamaShape:
    dim = integer(config, "hidden_size")
    heads = integer(config, "num_attention_heads")
    kv_heads = integer(config, "num_key_value_heads", default=heads)
    if config.get("head_dim") is None:
        check_divides(config, "num_attention_heads", heads, "hidden_size", dim)
    check_divides(config, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    head_dim = _even_head(integer(config, "head_dim", default=dim // heads))
    return LlamaShape(
        dim=dim,
        hidden_dim=integer(config, "intermediate_size"),
        layers=integer(config, "num_hidden_layers", high=MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=integer(config, "vocab_size", high=MAX_VOCABULARY),
        norm_eps=number(config, "rms_norm_eps", default=1e-6, high=1),
        rope=_hf_rope(config),
        attention_bias=boolean(config, "attention_bias"),
        mlp_bias=boolean(config, "mlp_bias"),
    )


def _hf_rope(config: Mapping[str, object]) -> Rope:
    """`rope_parameters` of transformers 5, or the older `rope_theta` beside `rope_scaling`."""
    fields = _rope_fields(config)
    theta = number(fields if "rope_theta" in fields else config, "rope_theta", default=10_000.0)
    return Rope(
        theta,
        _rope_kind(fields),
        number(fields, "factor", default=1.0),
        number(fields, "low_freq_factor", default=1.0),
        number(fields, "high_freq_factor", default=4.0),
        integer(fields, "original_max_position_embeddings", default=8192, high=1 << 40),
    )


def _rope_fields(config: Mapping[str, object]) -> Mapping[str, object]:
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name)
        if value is not None:
            if not isinstance(value, dict):
                raise CheckpointError(f"the checkpoint's config: {name} is {quoted(value)}, not a mapping")
            return value
    return {}


def _rope_kind(fields: Mapping[str, object]) -> str:
    return str(fields.get("rope_type") or fields.get("type") or "default")


def from_config(config: Mapping[str, object], naming: str, headers: Headers) -> Architecture:
    """LLaMA's parameters in the order in which the reference module registers them.

    Raises:
        CheckpointError: a field of the config is missing or absurd.
    """
    shape = read_shape(config, naming, headers)
    if naming == "meta":
        # Resolved here, so that whoever builds the model needs no headers.
        config = {**config, "vocab_size": shape.vocabulary}
        parameters = tuple(_meta_parameters(shape, headers))
    else:
        parameters = tuple(_hf_parameters(shape, config, headers))
    return Architecture("llama", naming, config, parameters)


def _meta_parameters(shape: LlamaShape, headers: Headers) -> Iterator[Parameter]:
    dim, hidden, vocabulary = shape.dim, shape.hidden_dim, shape.vocabulary
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    frequencies = (shape.head_dim // 2,)
    yield Parameter("tok_embeddings.weight", (vocabulary, dim), split_dim=_embedding_split(shape, headers))
    for index in range(shape.layers):
        layer = f"layers.{index}"
        attention, feed_forward = f"{layer}.attention", f"{layer}.feed_forward"
        yield Parameter(f"{attention}.wq.weight", (queries, dim), split_dim=0, linear="attention")
        yield Parameter(f"{attention}.wk.weight", (keys, dim), split_dim=0, linear="attention")
        yield Parameter(f"{attention}.wv.weight", (keys, dim), split_dim=0, linear="attention")
        yield Parameter(f"{attention}.wo.weight", (dim, queries), split_dim=1, linear="attention")
        # LLaMA 1 keeps the rotary frequencies in every layer, LLaMA 2 once at the end, LLaMA 3 not at all.
        if (name := f"{attention}.inner_attention.rope.freqs") in headers.tensors:
            yield buffer(name, frequencies, headers)
        yield Parameter(f"{feed_forward}.w1.weight", (hidden, dim), split_dim=0, linear="feed-forward")
        yield Parameter(f"{feed_forward}.w2.weight", (dim, hidden), split_dim=1, linear="feed-forward")
        yield Parameter(f"{feed_forward}.w3.weight", (hidden, dim), split_dim=0, linear="feed-forward")
        yield Parameter(f"{layer}.attention_norm.weight", (dim,))
        yield Parameter(f"{layer}.ffn_norm.weight", (dim,))
    yield Parameter("norm.weight", (dim,))
    tied = "tok_embeddings.weight" if headers.share("tok_embeddings.weight", "output.weight") else None
    yield Parameter("output.weight", (vocabulary, dim), split_dim=0, tied_to=tied, linear="head")
    if "rope.freqs" in headers.tensors:
        yield buffer("rope.freqs", frequencies, headers)


def _embedding_split(shape: LlamaShape, headers: Headers) -> int:
    """LLaMA 1 and 2 slice the embedding's width, LLaMA 3 its vocabulary; the slice tells, else the size."""
    piece = headers.tensors.get("tok_embeddings.weight", ((), ""))[0]
    if headers.parallel_files > 1 and len(piece) == 2 and piece != (shape.vocabulary, shape.dim):
        return 0 if piece[1] == shape.dim else 1
    return 0 if shape.vocabulary > 100_000 else 1


def _hf_parameters(shape: LlamaShape, config: Mapping[str, object], headers: Headers) -> Iterator[Parameter]:
    dim, hidden, vocabulary = shape.dim, shape.hidden_dim, shape.vocabulary
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Parameter("model.embed_tokens.weight", (vocabulary, dim))
    for index in range(shape.layers):
        layer = f"model.layers.{index}"
        yield from _linear(f"{layer}.self_attn.q_proj", queries, dim, "attention", bias=shape.attention_bias)
        yield from _linear(f"{layer}.self_attn.k_proj", keys, dim, "attention", bias=shape.attention_bias)
        yield from _linear(f"{layer}.self_attn.v_proj", keys, dim, "attention", bias=shape.attention_bias)
        yield from _linear(f"{layer}.self_attn.o_proj", dim, queries, "attention", bias=shape.attention_bias)
        # Saved by transformers before 4.33 or so.
        if (name := f"{layer}.self_attn.rotary_emb.inv_freq") in headers.tensors:
            yield buffer(name, (shape.head_dim // 2,), headers)
        yield from _linear(f"{layer}.mlp.gate_proj", hidden, dim, "feed-forward", bias=shape.mlp_bias)
        yield from _linear(f"{layer}.mlp.up_proj", hidden, dim, "feed-forward", bias=shape.mlp_bias)
        yield from _linear(f"{layer}.mlp.down_proj", dim, hidden, "feed-forward", bias=shape.mlp_bias)
        yield Parameter(f"{layer}.input_layernorm.weight", (dim,))
        yield Parameter(f"{layer}.post_attention_layernorm.weight", (dim,))
    yield Parameter("model.norm.weight", (dim,))
    tied = head_is_tied(config, headers, "model.embed_tokens.weight", "lm_head.weight", default=False)
    if not tied or "lm_head.weight" in headers.tensors:
        embedding = "model.embed_tokens.weight" if tied else None
        yield Parameter("lm_head.weight", (vocabulary, dim), tied_to=embedding, linear="head")


def _linear(name: str, rows: int, columns: int, linear: str, *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (rows, columns), linear=linear)
    if bias:
        yield Parameter(f"{name}.bias", (rows,))


def recognise(headers: Headers) -> Recognised:
    """LLaMA by its config, or by names and shapes that are a published model's."""
    config = headers.config or {}
    if config.get("model_type") == "llama":
        return _unsupported(config) or from_config(config, "hf", headers)
    meta_names = {"tok_embeddings.weight", "layers.0.attention.wq.weight"} <= headers.tensors.keys()
    if meta_names and "dim" in config and "n_layers" in config:
        return from_config(config, "meta", headers)
    if meta_names:
        return _published("meta", headers)
    if "model_type" not in config and "model.layers.0.self_attn.q_proj.weight" in headers.tensors:
        return _published("hf", headers)
    return None


def _unsupported(config: Mapping[str, object]) -> str | None:
    """What this config asks for that our module does not compute."""
    fields = _rope_fields(config)
    if _rope_kind(fields) not in ROPE_KINDS:
        return f"rope_type {quoted(_rope_kind(fields))} is not supported"
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        return "a partial rotary embedding is not supported"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act {quoted(config['hidden_act'])} is not supported"
    return None


def _published(naming: str, headers: Headers) -> Architecture | str:
    """Without a config the number of heads is unknown; a published model's shapes settle it."""
    for config in _llama_sizes.published(naming):
        architecture = from_config(config, naming, headers)
        if mismatch(architecture, headers) is None:
            return architecture
    return "it has LLaMA's names, no params.json or config.json, and no published model's shapes"


FAMILY = Family(
    id="llama",
    summary="LLaMA 1 to 3: rotary, grouped-query attention, SwiGLU",
    namings=("meta", "hf"),
    from_config=from_config,
    for_parameters=_llama_sizes.for_parameters,
    recognise=recognise,
)
