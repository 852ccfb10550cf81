"""LLaMA in torch, under Meta's tensor names and under Hugging Face's.

The two differ in names and in which elements of a head the rotary embedding pairs.
Sources: github.com/meta-llama/llama, llama/model.py; transformers, models/llama/modeling_llama.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own convention

from meminspect.architectures.llama import LlamaShape, read_shape
from meminspect.worker.models.buffers import declared, dtype_of, output_head, register_nested_buffer
from meminspect.worker.models.rotary import (
    Angles,
    attend,
    frequencies,
    rotary_angles,
    rotate_halves,
    rotate_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures.model import Architecture, Parameter

__all__ = ["build"]


def build(architecture: Architecture) -> nn.Module:
    """The LLaMA that `architecture` declares."""
    shape = read_shape(architecture.config, architecture.naming)
    names = declared(architecture)
    return MetaLlama(shape, names) if architecture.naming == "meta" else HFLlama(shape, names)


class RMSNorm(nn.Module):
    """As torch's own, which came with 2.4."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        full = x.float()
        return (full * torch.rsqrt(full.square().mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class MetaAttention(nn.Module):
    """Grouped-query attention; rotary over neighbouring elements."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.wq = nn.Linear(shape.dim, queries, bias=False)
        self.wk = nn.Linear(shape.dim, keys, bias=False)
        self.wv = nn.Linear(shape.dim, keys, bias=False)
        self.wo = nn.Linear(queries, shape.dim, bias=False)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        mixed = attend(self.wq(x), self.wk(x), self.wv(x), self.shape, angles, rotate_pairs)
        out: Tensor = self.wo(mixed)
        return out


class MetaFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.dim, shape.hidden_dim, bias=False)
        self.w2 = nn.Linear(shape.hidden_dim, shape.dim, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class MetaBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, shape: LlamaShape, rope_freqs: Parameter | None) -> None:
        super().__init__()
        self.attention = MetaAttention(shape)
        if rope_freqs is not None:  # LLaMA 1 saved them in each layer
            _register_frequencies(self.attention, "inner_attention.rope.freqs", shape, rope_freqs)
        self.feed_forward = MetaFeedForward(shape)
        self.attention_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.ffn_norm = RMSNorm(shape.dim, shape.norm_eps)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angles)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class MetaLlama(nn.Module):
    """LLaMA under the names of Meta's reference code."""

    def __init__(self, shape: LlamaShape, names: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocabulary, shape.dim)
        self.layers = nn.ModuleList(
            MetaBlock(shape, names.get(f"layers.{index}.attention.inner_attention.rope.freqs"))
            for index in range(shape.layers)
        )
        self.norm = RMSNorm(shape.dim, shape.norm_eps)
        self.output = output_head(names["output.weight"], self.tok_embeddings)
        if "rope.freqs" in names:  # LLaMA 2 saved them once
            _register_frequencies(self, "rope.freqs", shape, names["rope.freqs"])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens)
        angles = rotary_angles(tokens.shape[-1], self.shape.head_dim, self.shape.rope, tokens.device)
        for layer in self.layers:
            x = layer(x, angles)
        logits: Tensor = self.output(self.norm(x))
        return logits


class HFAttention(nn.Module):
    """Grouped-query attention; rotary over the two halves of a head."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.dim, queries, bias=shape.attention_bias)
        self.k_proj = nn.Linear(shape.dim, keys, bias=shape.attention_bias)
        self.v_proj = nn.Linear(shape.dim, keys, bias=shape.attention_bias)
        self.o_proj = nn.Linear(queries, shape.dim, bias=shape.attention_bias)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        mixed = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.shape, angles, rotate_halves)
        out: Tensor = self.o_proj(mixed)
        return out


class HFFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.dim, shape.hidden_dim, bias=shape.mlp_bias)
        self.up_proj = nn.Linear(shape.dim, shape.hidden_dim, bias=shape.mlp_bias)
        self.down_proj = nn.Linear(shape.hidden_dim, shape.dim, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class HFBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, shape: LlamaShape, inv_freq: Parameter | None) -> None:
        super().__init__()
        self.self_attn = HFAttention(shape)
        if inv_freq is not None:  # older versions of transformers saved them
            _register_frequencies(self.self_attn, "rotary_emb.inv_freq", shape, inv_freq)
        self.mlp = HFFeedForward(shape)
        self.input_layernorm = RMSNorm(shape.dim, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.dim, shape.norm_eps)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class HFBody(nn.Module):
    """All but the output head."""

    def __init__(self, shape: LlamaShape, names: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.dim)
        self.layers = nn.ModuleList(
            HFBlock(shape, names.get(f"model.layers.{index}.self_attn.rotary_emb.inv_freq"))
            for index in range(shape.layers)
        )
        self.norm = RMSNorm(shape.dim, shape.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        angles = rotary_angles(tokens.shape[-1], self.shape.head_dim, self.shape.rope, tokens.device)
        for layer in self.layers:
            x = layer(x, angles)
        hidden: Tensor = self.norm(x)
        return hidden


class HFLlama(nn.Module):
    """LLaMA under the names of transformers' LlamaForCausalLM."""

    def __init__(self, shape: LlamaShape, names: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.model = HFBody(shape, names)
        self.lm_head: nn.Linear | None = None
        if "lm_head.weight" in names:
            self.lm_head = output_head(names["lm_head.weight"], self.model.embed_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.model(tokens)
        if self.lm_head is None:  # tied, and absent from the file
            return F.linear(hidden, self.model.embed_tokens.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits


def _register_frequencies(module: nn.Module, path: str, shape: LlamaShape, parameter: Parameter) -> None:
    """The checkpoint's copy of what forward computes anyway, in full precision."""
    register_nested_buffer(module, path, frequencies(shape.head_dim, shape.rope).to(dtype_of(parameter)))
