"""Which bytes a tensor of a given name gets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from meminspect.dtypes import BITS, FLOATING
from meminspect.synthesis.values import CausalMask, Noise, Repeated, Table, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures.model import Parameter
    from meminspect.synthesis.values import NoisePool, Source

__all__ = ["source_of"]

# norm.weight, layers.0.ffn_norm.weight, input_layernorm.weight; ln_f.weight; trf_blocks.0.norm1.scale
_SCALE: Final = re.compile(r"(^|\.)((\w*norm\w*|ln_\w+)\.weight|scale)$")
_FREQUENCIES: Final = re.compile(r"(^|\.)(rope\.freqs|inv_freq)$")


def source_of(parameter: Parameter, pool: NoisePool, config: Mapping[str, object]) -> Source:
    """Ones for the scales of norms, causal masks and rotary frequencies as they are, noise for weights."""
    shape, dtype = parameter.shape, pool.dtype
    if parameter.buffer and len(shape) >= 2 and shape[-1] == shape[-2]:
        # Ones in the teaching GPT-2's `mask` bar attention, those in Hugging Face's `attn.bias` allow it.
        return CausalMask(dtype, shape, above=not parameter.name.endswith(".bias"))
    if _FREQUENCIES.search(parameter.name) and BITS[dtype] > 8:
        return Table(encode(_frequencies(parameter.elements, config), dtype))
    if dtype not in FLOATING or _SCALE.search(parameter.name):
        return Repeated(dtype, parameter.elements, one=dtype in FLOATING)
    return Noise(parameter.name, parameter.elements, pool)


def _frequencies(count: int, config: Mapping[str, object]) -> list[float]:
    """1 / θ^(2i/d) (meta-llama/llama, llama/model.py, precompute_freqs_cis)."""
    theta = config.get("rope_theta")
    base = float(theta) if isinstance(theta, (int, float)) else 10_000.0
    return [base ** (-index / count) for index in range(count)]
