"""Rotary position embedding and the attention around it, in Meta's and in Hugging Face's arrangement."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own convention

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from meminspect.architectures.llama import LlamaShape, Rope

    Rotate: TypeAlias = Callable[[Tensor, "Angles"], Tensor]

__all__ = ["Angles", "attend", "frequencies", "rotary_angles", "rotate_halves", "rotate_pairs"]


class Angles(NamedTuple):
    """Cosine and sine of each position's angles, float32, (sequence, head_dim / 2)."""

    cos: Tensor
    sin: Tensor


def frequencies(head_dim: int, rope: Rope, device: torch.device | None = None) -> Tensor:
    """Radians per position for each pair, float32, (head_dim / 2,).

    Source of the llama3 stretching: llama-models, models/llama3/model.py, apply_scaling.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "default":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    turns = rope.original_context * plain / (2 * math.pi)  # within the context of the first training
    width = rope.high_freq_factor - rope.low_freq_factor
    # 0: slow, stretched by the whole factor; 1: fast, left alone; in between a blend.
    share = ((turns - rope.low_freq_factor) / width).clamp(0, 1)
    return (1 - share) * plain / rope.factor + share * plain


def rotary_angles(length: int, head_dim: int, rope: Rope, device: torch.device) -> Angles:
    """The tables for positions 0 to `length` - 1, made in each forward so that the module holds no hidden state."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies(head_dim, rope, device))
    return Angles(angles.cos(), angles.sin())


def rotate_pairs(x: Tensor, angles: Angles) -> Tensor:
    """Meta's arrangement: elements 2i and 2i + 1 are a pair."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack(_turn(even, odd, angles), dim=-1).flatten(-2)


def rotate_halves(x: Tensor, angles: Angles) -> Tensor:
    """Hugging Face's arrangement: elements i and i + head_dim / 2 are a pair."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat(_turn(first, second, angles), dim=-1)


def _turn(a: Tensor, b: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
    return a * angles.cos - b * angles.sin, b * angles.cos + a * angles.sin


def attend(q: Tensor, k: Tensor, v: Tensor, shape: LlamaShape, angles: Angles, rotate: Rotate) -> Tensor:
    """Causal grouped-query attention over projections (batch, sequence, heads × head_dim)."""
    q, k, v = (
        x.view(*x.shape[:-1], heads, shape.head_dim).transpose(1, 2)
        for x, heads in ((q, shape.heads), (k, shape.kv_heads), (v, shape.kv_heads))
    )
    q, k = (rotate(x.float(), angles).type_as(x) for x in (q, k))
    group = shape.heads // shape.kv_heads
    if group > 1:  # torch shares heads by itself since 2.5
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2).flatten(-2)
