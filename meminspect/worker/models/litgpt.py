"""LitGPT's decoder in torch, under its tensor names.

Source: https://github.com/Lightning-AI/litgpt, litgpt/model.py (`GPT`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own convention

from meminspect.architectures.litgpt import LitgptShape, read_shape
from meminspect.worker.models.buffers import declared
from meminspect.worker.models.rotary import Angles, rotary_angles, rotate_halves

if TYPE_CHECKING:
    from meminspect.architectures.model import Architecture

__all__ = ["build"]


def build(architecture: Architecture) -> nn.Module:
    """The decoder that `architecture` declares."""
    interleaved = "transformer.h.0.attn.attn.weight" in declared(architecture)
    return LitGPT(read_shape(architecture.config), interleaved=interleaved)


class Attention(nn.Module):
    """Grouped-query attention behind one projection; rotary over the halves of a part of each head."""

    def __init__(self, shape: LitgptShape, *, interleaved: bool) -> None:
        super().__init__()
        self.shape = shape
        fused = nn.Linear(shape.dim, shape.fused_dim, bias=shape.attention_bias)
        if interleaved:
            self.attn = fused
        else:
            self.qkv = fused
        self.proj = nn.Linear(shape.heads * shape.head_dim, shape.dim, bias=shape.bias)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        q, k, v = self._projected(x)
        q, k = (self._turned(part, angles) for part in (q, k))
        shape = self.shape
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape.groups != shape.heads)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads or groups, sequence, head_dim)."""
        shape = self.shape
        if hasattr(self, "qkv"):
            parts = self.qkv(x).view(*x.shape[:-1], -1, shape.head_dim).transpose(1, 2)
            q, k, v = parts.split((shape.heads, shape.groups, shape.groups), dim=1)
            return q, k, v
        each = shape.heads // shape.groups  # queries of a group, then its key and its value
        parts = self.attn(x).view(*x.shape[:-1], shape.groups, each + 2, shape.head_dim).permute(0, 2, 3, 1, 4)
        q, k, v = parts.split((each, 1, 1), dim=2)
        return q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)

    def _turned(self, x: Tensor, angles: Angles) -> Tensor:
        turned = rotate_halves(x[..., : self.shape.rotary_dim].float(), angles).type_as(x)
        return torch.cat((turned, x[..., self.shape.rotary_dim :]), dim=-1)


class GatedFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: LitgptShape) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(shape.dim, shape.hidden_dim, bias=shape.bias)
        self.fc_2 = nn.Linear(shape.dim, shape.hidden_dim, bias=shape.bias)
        self.proj = nn.Linear(shape.hidden_dim, shape.dim, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(F.silu(self.fc_1(x)) * self.fc_2(x))
        return out


class FeedForward(nn.Module):
    """GPT-NeoX's."""

    def __init__(self, shape: LitgptShape) -> None:
        super().__init__()
        self.fc = nn.Linear(shape.dim, shape.hidden_dim, bias=shape.bias)
        self.proj = nn.Linear(shape.hidden_dim, shape.dim, bias=shape.bias)
        self.approximate = "tanh" if shape.tanh_gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(F.gelu(self.fc(x), approximate=self.approximate))
        return out


class Block(nn.Module):
    """Attention and feed-forward, one behind the other or side by side, around a residual."""

    def __init__(self, shape: LitgptShape, *, interleaved: bool) -> None:
        super().__init__()
        self.parallel = shape.parallel_residual
        self.norm_1 = _norm(shape)
        self.attn = Attention(shape, interleaved=interleaved)
        self.norm_2 = None if shape.shared_norm else _norm(shape)
        self.mlp = GatedFeedForward(shape) if shape.gated else FeedForward(shape)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        normed = self.norm_1(x)
        attended = self.attn(normed, angles)
        if not self.parallel:
            x = x + attended
        second = normed if self.norm_2 is None else self.norm_2(x)
        out: Tensor = x + self.mlp(second)
        return out + attended if self.parallel else out


class LitGPT(nn.Module):
    """The whole model."""

    def __init__(self, shape: LitgptShape, *, interleaved: bool) -> None:
        super().__init__()
        self.shape = shape
        self.lm_head = nn.Linear(shape.dim, shape.vocabulary, bias=shape.head_bias)
        self.transformer = nn.ModuleDict()
        self.transformer["wte"] = nn.Embedding(shape.vocabulary, shape.dim)
        self.transformer["h"] = nn.ModuleList(Block(shape, interleaved=interleaved) for _ in range(shape.layers))
        self.transformer["ln_f"] = _norm(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens)
        angles = rotary_angles(tokens.shape[-1], self.shape.rotary_dim, self.shape.rope, tokens.device)
        for block in self.transformer["h"].children():
            x = block(x, angles)
        logits: Tensor = self.lm_head(self.transformer["ln_f"](x))
        return logits


def _norm(shape: LitgptShape) -> nn.Module:
    if shape.rms_norm:
        return nn.RMSNorm(shape.dim, shape.norm_eps)
    return nn.LayerNorm(shape.dim, shape.norm_eps)
