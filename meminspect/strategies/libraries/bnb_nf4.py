"""`bnb-nf4`: bitsandbytes' 4-bit NormalFloat through from_pretrained."""

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

_KIND: Final = "nf4"
# backends/default/ops.py: the weight in float32, scaled, its codes as int32 and as uint8, and the halves packed.
_PASSING: Final = (4, 4, 4, 1)


def _recipe(task: LoadTask) -> str:
    return quantised_load.recipe(
        task, (), 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")', "BitsAndBytesConfig"
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from quantised_load.ledger(task, _KIND, _PASSING)


STRATEGY = Strategy(
    id="bnb-nf4",
    summary="from_pretrained quantises each linear layer to nf4 with bitsandbytes as it loads",
    good="a quarter of a float16 model, as QLoRA has it",
    bad="some 13 bytes an element on the way; every file stays mapped to the end and beyond",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    own_floor_bytes=lambda task: quantised_load.floor_bytes(task, _KIND),
    lacks=lambda task: quantised_load.why_not(task, _KIND),
    unpickles=False,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE, packages.BITSANDBYTES),
)
