"""GPT-2 in torch, under Hugging Face's tensor names and under those of the teaching implementation.

Sources: transformers, models/gpt2/modeling_gpt2.py; github.com/rasbt/LLMs-from-scratch, ch04/01_main-chapter-code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own convention

from meminspect.architectures.gpt2 import GPT2Shape, read_shape
from meminspect.worker.models.buffers import declared, dtype_of, output_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures.model import Architecture, Parameter

__all__ = ["build"]


def build(architecture: Architecture) -> nn.Module:
    """The GPT-2 that `architecture` declares."""
    shape, names = read_shape(architecture.config, architecture.naming), declared(architecture)
    if architecture.naming == "teaching":
        return TeachingGPT2(shape, names)
    return HFGPT2(shape, names) if "transformer.wte.weight" in names else BareHFGPT2(shape, names)


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out), initialised as transformers does."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width_out).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class HFAttention(nn.Module):
    """Causal self-attention over one fused projection."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter], prefix: str) -> None:
        super().__init__()
        self.heads = shape.heads
        # Copies that old checkpoints carry; forward needs neither.
        if (mask := names.get(f"{prefix}.bias")) is not None:
            ones = torch.ones(shape.context, shape.context, dtype=dtype_of(mask))
            self.register_buffer("bias", ones.tril_().view(mask.shape))
        if (value := names.get(f"{prefix}.masked_bias")) is not None:
            self.register_buffer("masked_bias", torch.full((), -1e4, dtype=dtype_of(value)))
        self.c_attn = Conv1D(shape.dim, 3 * shape.dim)
        self.c_proj = Conv1D(shape.dim, shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class HFFeedForward(nn.Module):
    """Two layers around the tanh form of GELU ("gelu_new")."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.c_fc = Conv1D(shape.dim, shape.hidden_dim)
        self.c_proj = Conv1D(shape.hidden_dim, shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class HFBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter], prefix: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.attn = HFAttention(shape, names, f"{prefix}.attn")
        self.ln_2 = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.mlp = HFFeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class HFBody(nn.Module):
    """All but the output head."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter], prefix: str) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.dim)
        self.wpe = nn.Embedding(shape.context, shape.dim)
        self.h = nn.ModuleList(HFBlock(shape, names, f"{prefix}h.{index}") for index in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.dim, shape.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.h:
            x = block(x)
        hidden: Tensor = self.ln_f(x)
        return hidden


class HFGPT2(nn.Module):
    """GPT-2 under the names of transformers' GPT2LMHeadModel."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.transformer = HFBody(shape, names, "transformer.")
        self.lm_head: nn.Linear | None = None
        if "lm_head.weight" in names:
            self.lm_head = output_head(names["lm_head.weight"], self.transformer.wte)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.transformer(tokens)
        if self.lm_head is None:  # tied, and absent from the file
            return F.linear(hidden, self.transformer.wte.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits


class BareHFGPT2(HFBody):
    """The same without the prefix, as the hub's original files have it."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter]) -> None:
        super().__init__(shape, names, "")
        self.lm_head: nn.Linear | None = None
        if "lm_head.weight" in names:
            self.lm_head = output_head(names["lm_head.weight"], self.wte)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = super().forward(tokens)
        if self.lm_head is None:
            return F.linear(hidden, self.wte.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits


class TeachingAttention(nn.Module):
    """Multi-head attention spelt out, with its mask as a persistent buffer."""

    def __init__(self, shape: GPT2Shape, mask: Parameter) -> None:
        super().__init__()
        self.heads = shape.heads
        self.W_query = nn.Linear(shape.dim, shape.dim, bias=shape.qkv_bias)
        self.W_key = nn.Linear(shape.dim, shape.dim, bias=shape.qkv_bias)
        self.W_value = nn.Linear(shape.dim, shape.dim, bias=shape.qkv_bias)
        self.out_proj = nn.Linear(shape.dim, shape.dim)
        ones = torch.ones(shape.context, shape.context, dtype=dtype_of(mask))
        self.register_buffer("mask", torch.triu(ones, diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-2]
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.W_query, self.W_key, self.W_value)
        )
        future = self.get_buffer("mask")[:length, :length].bool()
        scores = (q @ k.transpose(2, 3)).masked_fill(future, -torch.inf)
        weights = torch.softmax(scores / q.shape[-1] ** 0.5, dim=-1)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(-2))
        return out


class TeachingNorm(nn.Module):
    """LayerNorm with its parameters called scale and shift."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.eps = shape.norm_eps
        self.scale = nn.Parameter(torch.ones(shape.dim))
        self.shift = nn.Parameter(torch.zeros(shape.dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class TeachingFeedForward(nn.Module):
    """Two layers around the tanh form of GELU."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(shape.dim, shape.hidden_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(shape.hidden_dim, shape.dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class TeachingBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual; no dropout, which holds no memory."""

    def __init__(self, shape: GPT2Shape, mask: Parameter) -> None:
        super().__init__()
        self.att = TeachingAttention(shape, mask)
        self.ff = TeachingFeedForward(shape)
        self.norm1 = TeachingNorm(shape)
        self.norm2 = TeachingNorm(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.att(self.norm1(x))
        out: Tensor = x + self.ff(self.norm2(x))
        return out


class TeachingGPT2(nn.Module):
    """GPT-2 as "Build a Large Language Model (From Scratch)" has it: untied head, masks in the state dict."""

    def __init__(self, shape: GPT2Shape, names: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(shape.vocabulary, shape.dim)
        self.pos_emb = nn.Embedding(shape.context, shape.dim)
        masks = (names[f"trf_blocks.{index}.att.mask"] for index in range(shape.layers))
        self.trf_blocks = nn.Sequential(*(TeachingBlock(shape, mask) for mask in masks))
        self.final_norm = TeachingNorm(shape)
        self.out_head = nn.Linear(shape.dim, shape.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[-1], device=tokens.device))
        logits: Tensor = self.out_head(self.final_norm(self.trf_blocks(x)))
        return logits
