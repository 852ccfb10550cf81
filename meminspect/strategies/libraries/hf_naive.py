"""`hf-naive`: transformers' model with random weights, and the state dict copied in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    build = hugging_face.built(task, "config")
    moved = "" if task.options.device == "cpu" else f".to({task.options.device!r})"
    strict = ")" if hugging_face.has_head(task) else ", strict=False)  # the head is the embedding, and not in the file"
    return recipes.recipe(
        recipes.header(task, hugging_face.imports(task, "AutoConfig")),
        f"config = AutoConfig.from_pretrained({hugging_face.folder(task)})\n"
        f"model = {build}{moved}  # random numbers, soon overwritten",
        recipes.read_all(task, recipes.read_one(task, to_device=task.reads_to_device)),
        f"model.load_state_dict(state_dict{strict}\ndel state_dict",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    task = task.built_in(hugging_face.built_dtype(task))
    yield from steps.build(task)
    yield from steps.load_all(task, to_device=task.reads_to_device)


STRATEGY = Strategy(
    id="hf-naive",
    summary="transformers' model with random weights, then the whole state dict copied in",
    good="small models, and as the yardstick of from_pretrained",
    bad="holds a random model and the checkpoint at once",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    casts=False,
    built_dtype=hugging_face.built_dtype,
    lacks=hugging_face.why_not_built,
    packages=(packages.TRANSFORMERS,),
)
