"""`accelerate-dispatch`: a model without memory, which accelerate fills file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation
from meminspect.dtypes import bytes_of
from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.libraries import hugging_face
from meminspect.strategies.sources import sources_for
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]


def _recipe(task: LoadTask) -> str:
    casts = "" if task.options.dtype is None else f", dtype=torch.{task.options.dtype}"
    return recipes.recipe(
        "from accelerate import init_empty_weights, load_checkpoint_and_dispatch\n"
        + hugging_face.imports(task, "AutoConfig"),
        f"folder = {hugging_face.folder(task)}\nconfig = AutoConfig.from_pretrained(folder)\n"
        f"with init_empty_weights():\n    model = {hugging_face.built(task, 'config')}\nmodel.tie_weights()",
        f'model = load_checkpoint_and_dispatch(model, folder, device_map={{"": {task.options.device!r}}}{casts})',
    )


def _ledger(task: LoadTask) -> Iterator[Step]:
    remade = steps.remakes(task)
    sources = sources_for(task, Item.STAGING if remade else Item.FLOOR)
    for file, tensors in enumerate(task.tensors_by_file):
        yield from steps.read(task, sources, [file])
        for tensor in tensors:
            dtype = task.cast_dtype(tensor.dtype)
            if dtype != tensor.dtype or task.pool is not sources.made_pool:
                yield from sources.use("cast", tensor)
                nbytes = bytes_of(dtype, tensor.elements)
                yield Step("cast", Operation.MATERIALISE, task.pool, Item.FLOOR, tensor.name, nbytes)
        for tensor in tensors if remade else ():
            yield from sources.drop("cast", tensor)
    if not remade:
        yield from steps.touch(task, sources)


STRATEGY = Strategy(
    id="accelerate-dispatch",
    summary="builds transformers' model without memory; accelerate fills it, file by file",
    good="models of your own code, placed over several devices",
    bad="on the host it is mmap-assign with more steps; a cast holds a file beside what is made of it",
    recipe=_recipe,
    ledger=_ledger,
    maps=recipes.always_maps,
    built_dtype=hugging_face.built_dtype,
    lacks=hugging_face.why_not,
    packages=(packages.TRANSFORMERS, packages.ACCELERATE),
)
