"""`fabric-random-init`: as `fabric-init-module`, with the random numbers that a model begins with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from meminspect.strategies import steps
from meminspect.strategies.libraries import fabric_init_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _ledger(task: LoadTask) -> Iterator[Step]:
    built = task.built_in(task.main_dtype)
    yield from steps.build(built, in_place=True)
    yield from steps.load_all(built, to_device=False)


STRATEGY = dataclasses.replace(
    fabric_init_module.STRATEGY,
    id="fabric-random-init",
    summary="Lightning Fabric's init_module(empty_init=False), then load_raw: a random model, then the state dict",
    good="models that their checkpoint fills only in part: the rest begins as it must",
    bad="holds model and checkpoint at once, and makes random numbers for what is overwritten",
    recipe=lambda task: fabric_init_module.recipe(task, empty=False),
    ledger=_ledger,
)
