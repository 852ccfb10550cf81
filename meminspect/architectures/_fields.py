"""Reads hyper-parameters from a config that nobody has checked yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meminspect.architectures.family import quoted
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures.family import Headers

__all__ = [
    "MAX_LAYERS",
    "MAX_VOCABULARY",
    "boolean",
    "check_divides",
    "head_is_tied",
    "integer",
    "number",
]

# Ten times what any published model has: beyond them a config is damaged or hostile.
MAX_WIDTH = 1 << 20
MAX_LAYERS = 4096
MAX_VOCABULARY = 1 << 24


def integer(
    config: Mapping[str, object],
    name: str,
    *,
    high: int = MAX_WIDTH,
    low: int = 1,
    default: int | None = None,
) -> int:
    """An integer field, `default` (if any) where it is absent or null.

    Raises:
        CheckpointError: the field is not an integer from 1 to `high`.
    """
    value = config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value <= high:
        raise _absurd(name, config, f"an integer from 1 to {high}")
    return value


def number(config: Mapping[str, object], name: str, *, default: float, high: float = 1e12) -> float:
    """A positive number, `default` where it is absent or null.

    Raises:
        CheckpointError: the field is not a finite number above 0 and up to `high`.
    """
    value = config.get(name)
    if value is None:
        return default
    # An int is bounded before it becomes a float: 10**400 has none.
    if type(value) not in (int, float) or not 0 < value <= high or not math.isfinite(value):  # type: ignore[operator, arg-type]
        raise _absurd(name, config, f"a number above 0 and up to {high:g}")
    return float(value)  # type: ignore[arg-type]


def boolean(config: Mapping[str, object], name: str, *, default: bool = False) -> bool:
    """A flag, `default` where it is absent or null.

    Raises:
        CheckpointError: the field is not a boolean.
    """
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise _absurd(name, config, "true or false")
    return value


def check_divides(config: Mapping[str, object], part: str, divisor: int, whole: str, dividend: int) -> None:
    """Hold that `divisor` (field `part`) divides `dividend` (field `whole`).

    Raises:
        CheckpointError: it does not.
    """
    if dividend % divisor:
        raise _absurd(part, config, f"a divisor of {whole}, which is {dividend}")


def head_is_tied(config: Mapping[str, object], headers: Headers, embedding: str, head: str, *, default: bool) -> bool:
    """Whether the output head is the embedding, by the config's flag, else by the checkpoint's shared storage."""
    if config.get("tie_word_embeddings") is None and headers.share(embedding, head):
        return True
    return boolean(config, "tie_word_embeddings", default=default)


def _absurd(name: str, config: Mapping[str, object], expected: str) -> CheckpointError:
    value = config.get(name)
    found = "is missing" if value is None else f"is {quoted(value)}"
    return CheckpointError(f"the checkpoint's config: {name} {found}, not {expected}")
