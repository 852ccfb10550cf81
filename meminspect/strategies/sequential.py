"""`sequential`: the state dict waits on the host while the model takes it over tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    move = "" if task.options.device == "cpu" else f".to({task.options.device!r})"
    return recipes.recipe(
        recipes.header(task),
        recipes.build(task),
        recipes.read_all(task, recipes.read_one(task)),
        f"""
for name, parameter in model.state_dict().items():
    parameter.copy_(state_dict[name]{move})
del state_dict, parameter
""",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build(task)
    yield from steps.load_all(task, to_device=False, one_by_one=True)


STRATEGY = Strategy(
    id="sequential",
    summary="builds the model with random weights, reads the whole state dict on the host, copies it one by one",
    good="a device with room for the model and hardly more",
    bad="the host holds the whole checkpoint, and the random model before; on the cpu it is naive",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    casts=False,
)
