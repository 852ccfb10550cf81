"""Finds the width, depth and vocabulary of a model with about a wanted number of parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from meminspect.errors import UsageError
from meminspect.units import format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Scale", "head_count", "scale_to"]

TOLERANCE = 0.03
_VOCABULARY_SHARE = 0.5  # of the parameters, beyond which a small model gets a smaller vocabulary

# Coarser as they grow, so that a wide model's heads divide among 8 model-parallel files.
_WIDTHS = (*range(64, 1024, 64), *range(1024, 4096, 256), *range(4096, 32769, 1024))


class Scale(NamedTuple):
    """The three numbers from which a scaled model's other hyper-parameters follow."""

    dim: int
    layers: int
    vocabulary: int


def scale_to(count: int, elements: Callable[[Scale], int], vocabularies: Sequence[int]) -> Scale:
    """The most ordinary shape within 3 % of `count`.

    Args:
        count: parameters wanted.
        elements: parameters of a shape; linear in its layers.
        vocabularies: sizes to choose from, the preferred (largest) first.

    Raises:
        UsageError: no shape comes near enough.
    """
    candidates = _candidates(count, elements, vocabularies)
    scored = [(_cost(scale, elements(scale), count), scale) for scale in candidates]
    within = [(cost, scale) for cost, scale in scored if cost < math.inf]
    if not within:
        raise UsageError(
            f"no model of this architecture has about {format_count(count)} parameters",
            "ask for 1M to 500B parameters",
        )
    return min(within)[1]


def head_count(dim: int) -> int:
    """Attention heads of a scaled model: 128 wide from a width of 2048, as published ones are, else 64."""
    return dim // (128 if dim >= 2048 else 64)


def _candidates(count: int, elements: Callable[[Scale], int], vocabularies: Sequence[int]) -> Iterable[Scale]:
    for dim in _WIDTHS:
        for vocabulary in vocabularies:
            outside = elements(Scale(dim, 0, vocabulary))
            layer = elements(Scale(dim, 1, vocabulary)) - outside
            layers = round((count - outside) / layer)
            fits = outside <= _VOCABULARY_SHARE * count or vocabulary == vocabularies[-1]
            if layers >= 1 and fits:
                yield Scale(dim, layers, vocabulary)


def _cost(scale: Scale, elements: int, count: int) -> float:
    error = abs(elements - count) / count
    if error > TOLERANCE:
        return math.inf
    # Published models lie near this line: 768 → 12, 2048 → 22, 4096 → 32, 16384 → 126.
    usual_layers = 6 + scale.dim / 128
    # A smaller vocabulary than needed is the cheapest way to come nearer, and the least visible.
    return abs(math.log(scale.layers / usual_layers)) + 20 * error - 0.2 * math.log(scale.vocabulary)
