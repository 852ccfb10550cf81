"""`stream`: our own reader. Threads read the files straight into the model's final memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import own_readers, recipes, streaming
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        f"{recipes.stand_ins(task)}\nimport torch\nfrom meminspect.stream import load",
        recipes.meta_build(task),
        streaming.load(task),
    )


STRATEGY = Strategy(
    id="stream",
    summary="builds the model without memory, then threads read every tensor to where it stays, cast on the way",
    good="weights in memory of one's own at the model's size, read by several threads; runs no pickle",
    bad="needs this package where it runs; pages of the file are not shared with other processes",
    recipe=_recipe,
    ledger=streaming.ledger,
    maps=lambda _: False,
    lacks=streaming.lacks,
    unpickles=False,
    own_readers=frozenset({own_readers.DCP, own_readers.GGUF}),
)
