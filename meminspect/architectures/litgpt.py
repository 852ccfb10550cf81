"""LitGPT's one decoder for many models, by its model_config.yaml and its tensor names.

Source: https://github.com/Lightning-AI/litgpt, litgpt/config.py (`Config`) and litgpt/model.py (`GPT`, `Block`).
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
    integer,
    number,
)
from meminspect.architectures.family import Family, Headers, quoted
from meminspect.architectures.llama import Rope
from meminspect.architectures.model import Architecture, Parameter
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meminspect.architectures.family import Recognised

__all__ = ["FAMILY", "LitgptShape", "read_shape"]

_NORMS = ("LayerNorm", "RMSNorm")
_MLPS = ("GptNeoxMLP", "LLaMAMLP")
# What other models of LitGPT have and our module does not compute, where it is anything but absent.
_UNSUPPORTED = (
    "norm_qk", "post_attention_norm", "post_mlp_norm", "attention_scores_scalar", "sliding_window_size",
    "attention_logit_softcapping", "n_expert", "scale_embeddings", "final_logit_softcapping", "latent_attention",
    "rope_local_base_freq",
)  # fmt: skip
_FUSED_BEFORE = "attn"  # what LitGPT called the fused projection, interleaved by groups, until version 0.5
_FUSED = "qkv"


@dataclass(frozen=True, slots=True)
class LitgptShape:
    """The hyper-parameters."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    groups: int  # key and value heads
    head_dim: int
    rotary_dim: int  # elements of a head that are turned
    vocabulary: int  # padded
    norm_eps: float
    rope: Rope
    rms_norm: bool
    gated: bool  # LLaMA's feed-forward rather than GPT-NeoX's
    bias: bool
    attention_bias: bool
    head_bias: bool
    parallel_residual: bool
    shared_norm: bool  # attention and feed-forward behind one norm
    tanh_gelu: bool

    @property
    def fused_dim(self) -> int:
        """Rows of the projection that makes queries, keys and values."""
        return (self.heads + 2 * self.groups) * self.head_dim


def read_shape(config: Mapping[str, object]) -> LitgptShape:
    """The hyper-parameters in a model_config.yaml, with the defaults of LitGPT's `Config`.

    Raises:
        CheckpointError: a field is missing or absurd.
    """
    dim, heads = integer(config, "n_embd", default=4096), integer(config, "n_head", default=32)
    if config.get("head_size") is None:
        check_divides(config, "n_head", heads, "n_embd", dim)
    head_dim = integer(config, "head_size", default=dim // heads)
    groups = integer(config, "n_query_groups", default=heads)
    check_divides(config, "n_query_groups", groups, "n_head", heads)
    rotary_dim = int(number(config, "rotary_percentage", default=0.25, high=1) * head_dim)
    if rotary_dim % 2:
        raise CheckpointError(f"the checkpoint's config: {rotary_dim} elements of a head are turned, which is not even")
    gated = _one_of(config, "mlp_class_name", _MLPS) == "LLaMAMLP"
    bias = boolean(config, "bias", default=True)
    return LitgptShape(
        dim=dim,
        hidden_dim=integer(config, "intermediate_size", default=None if gated else 4 * dim),
        layers=integer(config, "n_layer", high=MAX_LAYERS, default=16),
        heads=heads,
        groups=groups,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        vocabulary=_vocabulary(config),
        norm_eps=number(config, "norm_eps", default=1e-5, high=1),
        rope=_rope(config),
        rms_norm=_one_of(config, "norm_class_name", _NORMS) == "RMSNorm",
        gated=gated,
        bias=bias,
        attention_bias=bias or boolean(config, "attn_bias"),
        head_bias=boolean(config, "lm_head_bias"),
        parallel_residual=boolean(config, "parallel_residual", default=True),
        shared_norm=boolean(config, "shared_attention_norm"),
        tanh_gelu=config.get("gelu_approximate") == "tanh",
    )


def _one_of(config: Mapping[str, object], name: str, known: tuple[str, ...]) -> str:
    value = config.get(name)
    if value is None:
        return known[0]
    if value not in known:
        raise CheckpointError(f"the checkpoint's config: {name} is {quoted(value)}, not one of {', '.join(known)}")
    return str(value)


def _vocabulary(config: Mapping[str, object]) -> int:
    if config.get("padded_vocab_size") is not None:
        return integer(config, "padded_vocab_size", high=MAX_VOCABULARY)
    multiple = integer(config, "padding_multiple", default=512)
    return -(-integer(config, "vocab_size", high=MAX_VOCABULARY, default=50254) // multiple) * multiple


def _rope(config: Mapping[str, object]) -> Rope:
    theta = number(config, "rope_base", default=10_000.0)
    fields = config.get("rope_adjustments")
    if not isinstance(fields, dict) or not fields:
        return Rope(theta, "linear", number(config, "rope_condense_ratio", default=1.0))
    if "low_freq_factor" not in fields:
        return Rope(theta, "linear", number(fields, "factor", default=1.0))
    return Rope(
        theta,
        "llama3",
        number(fields, "factor", default=8.0),
        number(fields, "low_freq_factor", default=1.0),
        number(fields, "high_freq_factor", default=4.0),
        integer(fields, "original_max_seq_len", default=8192, high=1 << 40),
    )


def from_config(config: Mapping[str, object], naming: str, headers: Headers) -> Architecture:
    """The decoder's parameters in the order in which LitGPT registers them.

    Raises:
        CheckpointError: a field of the config is missing or absurd.
    """
    old = f"transformer.h.0.attn.{_FUSED_BEFORE}.weight" in headers.tensors
    parameters = tuple(_parameters(read_shape(config), _FUSED_BEFORE if old else _FUSED))
    return Architecture("litgpt", naming, config, parameters)


def _parameters(shape: LitgptShape, fused: str) -> Iterator[Parameter]:
    yield from _linear("lm_head", shape.vocabulary, shape.dim, "head", bias=shape.head_bias)
    yield Parameter("transformer.wte.weight", (shape.vocabulary, shape.dim))
    for index in range(shape.layers):
        layer = f"transformer.h.{index}"
        yield from _norm(f"{layer}.norm_1", shape)
        yield from _linear(f"{layer}.attn.{fused}", shape.fused_dim, shape.dim, "attention", bias=shape.attention_bias)
        yield from _linear(f"{layer}.attn.proj", shape.dim, shape.heads * shape.head_dim, "attention", bias=shape.bias)
        if not shape.shared_norm:
            yield from _norm(f"{layer}.norm_2", shape)
        for name in ("fc_1", "fc_2") if shape.gated else ("fc",):
            yield from _linear(f"{layer}.mlp.{name}", shape.hidden_dim, shape.dim, "feed-forward", bias=shape.bias)
        yield from _linear(f"{layer}.mlp.proj", shape.dim, shape.hidden_dim, "feed-forward", bias=shape.bias)
    yield from _norm("transformer.ln_f", shape)


def _linear(name: str, rows: int, columns: int, linear: str, *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (rows, columns), linear=linear)
    if bias:
        yield Parameter(f"{name}.bias", (rows,))


def _norm(name: str, shape: LitgptShape) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (shape.dim,))
    if not shape.rms_norm:
        yield Parameter(f"{name}.bias", (shape.dim,))


def for_parameters(count: int, _: str) -> dict[str, object]:
    """The config of a LLaMA with about `count` parameters.

    Raises:
        UsageError: there is no such model.
    """
    llama = _llama_sizes.for_parameters(count, "hf")
    return {
        "name": "llama",
        "n_layer": llama["num_hidden_layers"],
        "n_embd": llama["hidden_size"],
        "n_head": llama["num_attention_heads"],
        "n_query_groups": llama["num_key_value_heads"],
        "intermediate_size": llama["intermediate_size"],
        "vocab_size": llama["vocab_size"],
        "padded_vocab_size": llama["vocab_size"],
        "norm_class_name": "RMSNorm",
        "norm_eps": llama["rms_norm_eps"],
        "mlp_class_name": "LLaMAMLP",
        "rotary_percentage": 1.0,
        "rope_base": llama["rope_theta"],
        "parallel_residual": False,
        "bias": False,
    }


def recognise(headers: Headers) -> Recognised:
    """LitGPT's names, which only its config makes a model of."""
    names = headers.tensors.keys()
    first = {f"transformer.h.0.attn.{fused}.weight" for fused in (_FUSED, _FUSED_BEFORE)}
    if not ({"lm_head.weight", "transformer.wte.weight"} <= names and first & names):
        return None
    config = headers.config or {}
    if "n_embd" not in config:
        return "it has LitGPT's names and no model_config.yaml"
    odd = next((name for name in _UNSUPPORTED if config.get(name)), None)
    if odd is not None:
        return f"{odd} is not supported"
    return from_config(config, "litgpt", headers)


FAMILY = Family(
    id="litgpt",
    summary="LitGPT's decoder: LLaMA, Pythia and others under its names",
    namings=("litgpt",),
    from_config=from_config,
    for_parameters=for_parameters,
    recognise=recognise,
)
