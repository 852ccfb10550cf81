"""`bnb-int8`: bitsandbytes' LLM.int8 through from_pretrained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.strategies import packages
from meminspect.strategies.libraries import hugging_face, quantised_load
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]

_KIND: Final = "int8"
# backends/default/ops.py: the product with the scales, in float32, and the same rounded.
_PASSING: Final = (4, 4)


def _recipe(task: LoadTask) -> str:
    return quantised_load.recipe(task, (), "BitsAndBytesConfig(load_in_8bit=True)", "BitsAndBytesConfig")


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from quantised_load.ledger(task, _KIND, _PASSING)


STRATEGY = Strategy(
    id="bnb-int8",
    summary="from_pretrained quantises each linear layer to int8 with bitsandbytes as it loads",
    good="half of a float16 model, in the library that training tools expect",
    bad="every file stays mapped to the end and beyond: what is not quantised is its pages",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    own_floor_bytes=lambda task: quantised_load.floor_bytes(task, _KIND),
    lacks=lambda task: quantised_load.why_not(task, _KIND),
    unpickles=False,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE, packages.BITSANDBYTES),
)
