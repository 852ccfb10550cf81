"""`torchao-int8`: torchao's int8 weights through from_pretrained."""

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
# quantize_ (Int8Tensor.from_hp): TO BE FOUND
_PASSING: Final = (4, 4)


def _recipe(task: LoadTask) -> str:
    return quantised_load.recipe(
        task,
        ["from torchao.quantization import Int8WeightOnlyConfig"],
        "TorchAoConfig(Int8WeightOnlyConfig())",
        "TorchAoConfig",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from quantised_load.ledger(task, _KIND, _PASSING)


STRATEGY = Strategy(
    id="torchao-int8",
    summary="from_pretrained quantises each linear layer to int8 with torchao as it loads",
    good="half of a float16 model that torch.compile understands",
    bad="every file stays mapped to the end and beyond: what is not quantised is its pages",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    built_dtype=hugging_face.built_dtype,
    own_floor_bytes=lambda task: quantised_load.floor_bytes(task, _KIND),
    lacks=lambda task: quantised_load.why_not(task, _KIND),
    unpickles=False,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE, packages.TORCHAO),
)
