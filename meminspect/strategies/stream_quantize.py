"""`stream-quantize`: our own reader, whose threads quantise what they read before they read on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies import own_readers, quantisation, recipes, streaming
from meminspect.strategies.strategy import Strategy
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    kept = quantisation.kept(task)
    keep = f", keep=[{kept!r}]" if kept else ""
    return recipes.recipe(
        f"{recipes.stand_ins(task)}\nimport torch\nfrom meminspect.stream import load, quantise_linears",
        recipes.meta_build(task),
        f"quantise_linears(model, {task.options.quantisation!r}{keep})  # what load reads for them, it quantises",
        streaming.load(task),
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    return streaming.ledger(task, quantisation.quantised(task))


def _lacks(task: LoadTask) -> str | None:
    return streaming.lacks(task) or quantisation.why_not(task) or _not_row_by_row(task)


def _not_row_by_row(task: LoadTask) -> str | None:
    """Why weights do not lie so that a scale's own can be read one after the other."""
    if task.checkpoint.parallel_files:
        return "it quantises whole rows, and model-parallel slices are not: lazy-quantize joins them first"
    layers = quantisation.quantised(task)
    if any(parameter.transposed for parameter in layers.values()):
        return "it quantises rows as they lie, and these weights are stored transposed: lazy-quantize turns them"
    askew = next((tensor for tensor in task.checkpoint.tensors if tensor.name in layers and tensor.strides), None)
    if askew is not None:
        return f"it quantises rows as they lie, and {shown(askew.name)} does not lie row by row: lazy-quantize takes it"
    return None


STRATEGY = Strategy(
    id="stream-quantize",
    summary="as stream, but the threads quantise the linear layers' weights while they read them",
    good="models that fit only when quantised, at the quantised size; as fast as the processors quantise",
    bad="needs this package where it runs; quantises again at each load; whole weights, stored row by row",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: False,
    quantises=True,
    lacks=_lacks,
    unpickles=False,
    own_readers=frozenset({own_readers.DCP, own_readers.GGUF}),
)
