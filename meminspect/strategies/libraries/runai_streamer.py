"""`runai-streamer`: Run:ai Model Streamer's threads read the files; each tensor gets memory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Pool
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.sources import Sources
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task, "from runai_model_streamer import SafetensorsStreamer"),
        recipes.meta_build(task),
        """
state_dict = {}
with SafetensorsStreamer() as streamer:
    streamer.stream_files([str(file) for file in files])
    for name, tensor in streamer.get_tensors():
        state_dict[name] = tensor
""",
        recipes.convert(task),
        "model.load_state_dict(state_dict, assign=True)\ndel state_dict",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.build_unsaved(task)
    sources = Sources(Pool.HEAP, Item.STAGING if steps.remakes(task) else Item.FLOOR)
    yield from steps.read(task, sources)
    yield from steps.into_final_form(task, sources)
    yield from steps.assign(task)


STRATEGY = Strategy(
    id="runai-streamer",
    summary="Run:ai's Model Streamer reads tensors in parallel into memory of their own, which becomes the model",
    good="one checkpoint of memory; also from object storage",
    bad="a tensor that lives keeps the whole slot it was read into, so that a cast holds more than theory knows",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: False,
    lacks=packages.why_not_safetensors,
    packages=(packages.RUNAI,),
)
