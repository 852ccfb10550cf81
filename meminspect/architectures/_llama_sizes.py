"""The published LLaMA sizes, and plausible ones in between.

Sources: the params.json of Meta's releases; the config.json of TinyLlama-1.1B and Sheared-LLaMA on the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.architectures._scale import TOLERANCE, Scale, head_count, scale_to

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["for_parameters", "published"]

_VOCABULARIES = (32_000, 16_000, 8_000, 4_000, 2_000, 1_500, 1_000, 750, 512, 384, 256)


@dataclass(frozen=True, slots=True)
class _Size:
    dim: int
    layers: int
    heads: int
    hidden: int  # what Meta's formula makes of dim, multiple_of and multiplier
    multiple_of: int
    kv_heads: int | None = None  # None: as many as heads, and then params.json has no such field
    multiplier: float | None = None
    vocabulary: int = 32_000
    theta: float | None = None  # None: 10,000, and then params.json has no such field
    eps: float = 1e-5

    @property
    def elements(self) -> int:
        """Parameters, closed form; a test holds it against the sum over the tensors."""
        keys = self.dim * (self.kv_heads or self.heads) // self.heads
        layer = 2 * self.dim * (self.dim + keys) + 3 * self.dim * self.hidden + 2 * self.dim
        return 2 * self.vocabulary * self.dim + self.layers * layer + self.dim


_MILLION = 10**6
_PUBLISHED: dict[int, _Size] = {  # by the size in millions that people call them by
    1_100 * _MILLION: _Size(2048, 22, 32, 5632, 256, kv_heads=4),  # TinyLlama
    1_300 * _MILLION: _Size(2048, 24, 16, 5504, 128),  # Sheared-LLaMA
    2_700 * _MILLION: _Size(2560, 32, 20, 6912, 256),  # Sheared-LLaMA
    7_000 * _MILLION: _Size(4096, 32, 32, 11008, 256, eps=1e-6),
    8_000 * _MILLION: _Size(4096, 32, 32, 14336, 1024, 8, 1.3, 128_256, 500_000.0),  # Llama 3
    13_000 * _MILLION: _Size(5120, 40, 40, 13824, 256, eps=1e-6),
    30_000 * _MILLION: _Size(6656, 60, 52, 17920, 256, eps=1e-6),
    33_000 * _MILLION: _Size(6656, 60, 52, 17920, 256, eps=1e-6),  # the 30B, by the paper's count
    34_000 * _MILLION: _Size(8192, 48, 64, 22016, 256, 8, 1.0, theta=1e6),  # Code Llama
    65_000 * _MILLION: _Size(8192, 80, 64, 22016, 256),
    70_000 * _MILLION: _Size(8192, 80, 64, 28672, 4096, 8, 1.3),  # Llama 2
    70_600 * _MILLION: _Size(8192, 80, 64, 28672, 4096, 8, 1.3, 128_256, 500_000.0),  # Llama 3
    405_000 * _MILLION: _Size(16384, 126, 128, 53248, 4096, 8, 1.2, 128_256, 500_000.0),  # Llama 3.1
}


def for_parameters(count: int, naming: str) -> dict[str, object]:
    """The params.json ("meta") or config.json ("hf") of a LLaMA with about `count` parameters.

    A published model when `count` is the size it goes by, or within 3 % of what it really has.

    Raises:
        UsageError: there is no such model.
    """
    size = _PUBLISHED.get(count) or _nearest(count) or _scaled(count)
    return _meta_config(size) if naming == "meta" else _hf_config(size)


def published(naming: str) -> Iterator[dict[str, object]]:
    """The configs of the published models."""
    for size in _PUBLISHED.values():
        yield _meta_config(size) if naming == "meta" else _hf_config(size)


def _nearest(count: int) -> _Size | None:
    size = min(_PUBLISHED.values(), key=lambda size: abs(size.elements - count))
    return size if abs(size.elements - count) <= TOLERANCE * count else None


def _scaled(count: int) -> _Size:
    return _sized(scale_to(count, lambda scale: _sized(scale).elements, _VOCABULARIES))


def _sized(scale: Scale) -> _Size:
    dim = scale.dim
    multiple_of = 256 if dim >= 1024 else 64
    hidden = -(-(8 * dim // 3) // multiple_of) * multiple_of
    return _Size(
        dim=dim,
        layers=scale.layers,
        heads=head_count(dim),
        hidden=hidden,
        multiple_of=multiple_of,
        kv_heads=8 if dim >= 8192 and head_count(dim) % 8 == 0 else None,
        vocabulary=scale.vocabulary,
    )


def _meta_config(size: _Size) -> dict[str, object]:
    optional = {
        "n_kv_heads": size.kv_heads,
        "ffn_dim_multiplier": size.multiplier,
        "rope_theta": size.theta,
    }
    return {
        "dim": size.dim,
        "n_layers": size.layers,
        "n_heads": size.heads,
        "vocab_size": size.vocabulary,
        "multiple_of": size.multiple_of,
        "norm_eps": size.eps,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _hf_config(size: _Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.dim,
        "intermediate_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads or size.heads,
        "num_hidden_layers": size.layers,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": size.eps,
        "rope_theta": size.theta or 10_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
