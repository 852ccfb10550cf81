"""`skip-init`: memory without values, then the state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _built(task: LoadTask) -> LoadTask:
    return task.built_in(task.main_dtype).untied()


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task),
        recipes.empty_build(_built(task)),
        recipes.load_all(task, to_device=task.reads_to_device),
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    built = _built(task)
    yield from steps.reserve(built)
    yield from steps.load_all(built, to_device=task.reads_to_device, untouched=True)


STRATEGY = Strategy(
    id="skip-init",
    summary="builds the model without memory, gives it memory without values, and copies the state dict in",
    good="models whose random initialisation takes long",
    bad="holds model and checkpoint at once; unties tied weights; what the checkpoint lacks is left as garbage",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    built_dtype=lambda task: task.main_dtype,
)
