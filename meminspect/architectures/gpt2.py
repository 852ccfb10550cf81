"""GPT-2 by its headers: Hugging Face's tensor names, and those of the teaching implementation.

Sources: transformers, models/gpt2/modeling_gpt2.py; github.com/rasbt/LLMs-from-scratch, ch04 and ch05.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.architectures._fields import (
    MAX_LAYERS,
    MAX_VOCABULARY,
    boolean,
    check_divides,
    head_is_tied,
    integer,
    number,
)
from meminspect.architectures._scale import TOLERANCE, Scale, scale_to
from meminspect.architectures.family import Family, Headers, buffer, quoted
from meminspect.architectures.model import Architecture, Parameter
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meminspect.architectures.family import Recognised

__all__ = ["FAMILY", "GPT2Shape", "read_shape"]

_HEAD_DIM = 64  # in every published GPT-2
_TEACHING_EPS = 1e-5  # a constant of the teaching LayerNorm
_VOCABULARIES = (50_257, 25_000, 12_000, 6_000, 3_000, 1_500, 1_000, 750, 512, 384, 256)
# Elements of the Hugging Face variant: the name it goes by, width, layers.
_PUBLISHED = {124: (768, 12), 355: (1024, 24), 774: (1280, 36), 1558: (1600, 48)}
_OTHER_NAMES = {117: 124, 345: 355, 762: 774, 1500: 1558, 1542: 1558}  # of the 2019 release and the paper


@dataclass(frozen=True, slots=True)
class GPT2Shape:
    """The hyper-parameters, whichever file they came from."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    norm_eps: float
    qkv_bias: bool


def read_shape(config: Mapping[str, object], naming: str) -> GPT2Shape:
    """The hyper-parameters in a config.json ("hf") or a GPT_CONFIG of the book ("teaching").

    Raises:
        CheckpointError: a field is missing or absurd.
    """
    hf = naming == "hf"
    width, depth, heads_field = ("n_embd", "n_layer", "n_head") if hf else ("emb_dim", "n_layers", "n_heads")
    dim, heads = integer(config, width), integer(config, heads_field)
    check_divides(config, heads_field, heads, width, dim)
    return GPT2Shape(
        dim=dim,
        hidden_dim=integer(config, "n_inner", default=4 * dim) if hf else 4 * dim,
        layers=integer(config, depth, high=MAX_LAYERS),
        heads=heads,
        context=integer(config, "n_positions" if hf else "context_length"),
        vocabulary=integer(config, "vocab_size", high=MAX_VOCABULARY),
        norm_eps=number(config, "layer_norm_epsilon", default=1e-5, high=1) if hf else _TEACHING_EPS,
        qkv_bias=hf or boolean(config, "qkv_bias", default=True),
    )


def from_config(config: Mapping[str, object], naming: str, headers: Headers) -> Architecture:
    """GPT-2's parameters in the order in which the reference module registers them.

    Raises:
        CheckpointError: a field of the config is missing or absurd.
    """
    shape = read_shape(config, naming)
    parameters = _hf_parameters(shape, config, headers) if naming == "hf" else _teaching_parameters(shape, headers)
    return Architecture("gpt2", naming, config, tuple(parameters))


def _hf_parameters(shape: GPT2Shape, config: Mapping[str, object], headers: Headers) -> Iterator[Parameter]:
    dim = shape.dim
    # The hub's original files were saved from the model without its head.
    prefix = "" if "wte.weight" in headers.tensors else "transformer."
    yield Parameter(f"{prefix}wte.weight", (shape.vocabulary, dim))
    yield Parameter(f"{prefix}wpe.weight", (shape.context, dim))
    for index in range(shape.layers):
        layer = f"{prefix}h.{index}"
        yield from _pair(f"{layer}.ln_1", (dim,))
        yield from _hf_masks(f"{layer}.attn", shape, headers)
        yield from _conv1d(f"{layer}.attn.c_attn", (dim, 3 * dim), "attention")
        yield from _conv1d(f"{layer}.attn.c_proj", (dim, dim), "attention")
        yield from _pair(f"{layer}.ln_2", (dim,))
        yield from _conv1d(f"{layer}.mlp.c_fc", (dim, shape.hidden_dim), "feed-forward")
        yield from _conv1d(f"{layer}.mlp.c_proj", (shape.hidden_dim, dim), "feed-forward")
    yield from _pair(f"{prefix}ln_f", (dim,))
    tied = head_is_tied(config, headers, f"{prefix}wte.weight", "lm_head.weight", default=True)
    if not tied or "lm_head.weight" in headers.tensors:
        embedding = f"{prefix}wte.weight" if tied else None
        yield Parameter("lm_head.weight", (shape.vocabulary, dim), tied_to=embedding, linear="head")


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[Parameter]:
    """A LayerNorm."""
    yield Parameter(f"{name}.weight", shape)
    yield Parameter(f"{name}.bias", shape)


def _conv1d(name: str, shape: tuple[int, int], linear: str) -> Iterator[Parameter]:
    """A linear layer whose weight is (in, out)."""
    yield Parameter(f"{name}.weight", shape, linear=linear, transposed=True)
    yield Parameter(f"{name}.bias", shape[-1:])


def _hf_masks(attention: str, shape: GPT2Shape, headers: Headers) -> Iterator[Parameter]:
    """The causal mask and the value it puts in, which older versions of transformers saved."""
    if (name := f"{attention}.bias") in headers.tensors:
        yield buffer(name, (1, 1, shape.context, shape.context), headers)
    if (name := f"{attention}.masked_bias") in headers.tensors:
        yield buffer(name, (), headers)


def _teaching_parameters(shape: GPT2Shape, headers: Headers) -> Iterator[Parameter]:
    dim = shape.dim
    yield Parameter("tok_emb.weight", (shape.vocabulary, dim))
    yield Parameter("pos_emb.weight", (shape.context, dim))
    for index in range(shape.layers):
        layer = f"trf_blocks.{index}"
        for name in ("W_query", "W_key", "W_value"):
            yield from _linear(f"{layer}.att.{name}", dim, dim, "attention", bias=shape.qkv_bias)
        yield from _linear(f"{layer}.att.out_proj", dim, dim, "attention")
        yield buffer(f"{layer}.att.mask", (shape.context, shape.context), headers)
        yield from _linear(f"{layer}.ff.layers.0", shape.hidden_dim, dim, "feed-forward")
        yield from _linear(f"{layer}.ff.layers.2", dim, shape.hidden_dim, "feed-forward")
        yield from _norm(f"{layer}.norm1", dim)
        yield from _norm(f"{layer}.norm2", dim)
    yield from _norm("final_norm", dim)
    yield from _linear("out_head", shape.vocabulary, dim, "head", bias=False)


def _linear(name: str, rows: int, columns: int, linear: str, *, bias: bool = True) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (rows, columns), linear=linear)
    if bias:
        yield Parameter(f"{name}.bias", (rows,))


def _norm(name: str, dim: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.scale", (dim,))
    yield Parameter(f"{name}.shift", (dim,))


def for_parameters(count: int, naming: str) -> dict[str, object]:
    """The config of a GPT-2 with about `count` parameters; the teaching variant's masks are not counted.

    A published model when `count` is the size it goes by (124M and so on, for either naming), or is within 3 %
    of what it really has.

    Raises:
        UsageError: there is no such model.
    """
    for millions, (dim, layers) in _PUBLISHED.items():
        scale = Scale(dim, layers, 50_257)
        named = count % 10**6 == 0 and _OTHER_NAMES.get(count // 10**6, count // 10**6) == millions
        if named or abs(_elements(scale, naming) - count) <= TOLERANCE * count:
            return _config(scale, naming)
    return _config(scale_to(count, lambda scale: _elements(scale, naming), _VOCABULARIES), naming)


def _context(dim: int) -> int:
    """Small models see less, or their masks would outweigh them."""
    return 1024 if dim >= 512 else 2 * dim


def _elements(scale: Scale, naming: str) -> int:
    """Parameters in closed form; a test holds it against the sum over the tensors."""
    dim, layers, vocabulary = scale
    heads_of_output = 1 if naming == "hf" else 2  # the teaching variant's is untied
    return heads_of_output * vocabulary * dim + _context(dim) * dim + layers * (12 * dim + 13) * dim + 2 * dim


def _config(scale: Scale, naming: str) -> dict[str, object]:
    dim, layers, vocabulary = scale
    heads, context = dim // _HEAD_DIM, _context(dim)
    if naming == "teaching":
        return {
            "vocab_size": vocabulary,
            "context_length": context,
            "emb_dim": dim,
            "n_heads": heads,
            "n_layers": layers,
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": context,
        "n_embd": dim,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 1,
    }


def recognise(headers: Headers) -> Recognised:
    """GPT-2 by its config or its names; without a config, heads are 64 wide as in every published one."""
    config = headers.config or {}
    if "tok_emb.weight" in headers.tensors and "trf_blocks.0.att.W_query.weight" in headers.tensors:
        if "emb_dim" in config:
            return from_config(config, "teaching", headers)
        return _inferred("teaching", headers, "tok_emb.weight", "pos_emb.weight", "trf_blocks.")
    if config.get("model_type") == "gpt2":
        return _unsupported(config) or from_config(config, "hf", headers)
    prefix = "transformer." if "transformer.wte.weight" in headers.tensors else ""
    first = {f"{prefix}h.0.attn.c_attn.weight", f"{prefix}h.0.ln_1.weight"}
    if "model_type" not in config and first <= headers.tensors.keys():
        return _inferred("hf", headers, f"{prefix}wte.weight", f"{prefix}wpe.weight", f"{prefix}h.")
    return None


def _unsupported(config: Mapping[str, object]) -> str | None:
    """What this config asks for that our module does not compute."""
    if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        return f"activation_function {quoted(config['activation_function'])} is not supported"
    if config.get("scale_attn_weights", True) is not True:
        return "unscaled attention is not supported"
    if config.get("scale_attn_by_inverse_layer_idx") or config.get("add_cross_attention"):
        return "scaling by layer and cross-attention are not supported"
    return None


def _inferred(naming: str, headers: Headers, embedding: str, positions: str, layer: str) -> Architecture | str:
    """GPT-2 with what the embeddings' shapes and the layers' names say."""
    shapes = [headers.tensors[name][0] for name in (embedding, positions) if name in headers.tensors]
    if [len(shape) for shape in shapes] != [2, 2]:
        return "it has no config, and no embeddings of tokens and positions that say its size"
    (vocabulary, dim), (context, _) = shapes
    if dim % _HEAD_DIM:
        return f"it has no config, and a width of {dim} does not make heads of {_HEAD_DIM}"
    layers = {name[len(layer) :].partition(".")[0] for name in headers.tensors if name.startswith(layer)}
    config = _config(Scale(dim, len(layers), vocabulary), naming)
    if naming == "hf":
        tied = "lm_head.weight" not in headers.tensors or headers.share(embedding, "lm_head.weight")
        config |= {"n_positions": context, "tie_word_embeddings": tied}
    else:
        config |= {
            "context_length": context,
            "qkv_bias": f"{layer}0.att.W_query.bias" in headers.tensors,
        }
    try:
        return from_config(config, naming, headers)
    except CheckpointError as error:  # the sizes are the tensors' own: absurd ones are another model's
        return error.message


FAMILY = Family(
    id="gpt2",
    summary="GPT-2: learned positions, GELU, tied (hf) or untied (teaching) output head",
    namings=("hf", "teaching"),
    from_config=from_config,
    for_parameters=for_parameters,
    recognise=recognise,
)
