"""`quantize-after`: quantisation as an afterthought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation
from meminspect.dtypes import bytes_of
from meminspect.strategies import naive, quantisation, recipes
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task, "from torch import nn"),
        quantisation.layer_class(task),
        recipes.build(task),
        recipes.load_all(task, to_device=task.reads_to_device),
        f"""
names = [name for name, module in model.named_modules() if {quantisation.which(task)}]
for name in names:
    linear = model.get_submodule(name)
    quantised = QuantisedLinear(linear)
    quantised.quantise({quantisation.as_rows(task, "linear.weight.detach()")})
    model.set_submodule(name, quantised)
    del linear  # and with it the weight in full precision
""",
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    layers = quantisation.quantised(task)
    for step in naive.STRATEGY.ledger(task):
        if not _is_built(step) or step.tensor not in layers:
            yield step
        elif step.item == Item.FLOOR:  # the first of the two lines of a wide model's parameter
            for part in _full_precision(task, layers[step.tensor], step.phase, step.operation):
                yield part._replace(pool=step.pool)
    for parameter in layers.values():
        dtype = task.initial_dtype(parameter)
        yield from quantisation.steps(task, parameter, dtype, parameter.name)
        yield from _full_precision(task, parameter, quantisation.last_phase(task, dtype), Operation.RELEASE)


def _is_built(step: Step) -> bool:
    """Whether a step is of the random model's own memory."""
    return step.phase in ("build", "move") and step.item in (Item.FLOOR, Item.UPCAST)


def _full_precision(task: LoadTask, parameter: Parameter, phase: str, operation: Operation) -> Iterator[Step]:
    """A weight that will be quantised: what it must occupy then, and what it takes until then."""
    nbytes = bytes_of(task.initial_dtype(parameter), parameter.elements)
    floor_bytes = min(sum(quantisation.sizes(task, parameter)), nbytes)
    for item, part_bytes in ((Item.QUANTISED, floor_bytes), (Item.DETOUR, nbytes - floor_bytes)):
        yield Step(phase, operation, task.pool, item, parameter.name, part_bytes)


STRATEGY = Strategy(
    id="quantize-after",
    summary="builds, reads and copies in full precision, then quantises the linear layers one by one",
    good="models that fit in full precision and shall be small afterwards",
    bad="needs what the full model needs: the quantised one is small only once it is done",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.is_safetensors,
    casts=False,
    quantises=True,
    lacks=quantisation.why_not,
)
