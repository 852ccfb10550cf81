"""`fabric-init-module`: Lightning Fabric builds the model without random numbers, in place, and loads a raw file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.strategies import packages, recipes, steps
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["STRATEGY", "recipe"]

_PRECISIONS: Final = {"float64": "64-true", "float32": "32-true", "float16": "16-true", "bfloat16": "bf16-true"}


def recipe(task: LoadTask, *, empty: bool) -> str:
    """Build the model in place, with whatever is in its memory or with random numbers, and load a file into it."""
    accelerator, _, number = task.options.device.partition(":")
    devices = f"[{int(number)}]" if number else "1"
    precision = _PRECISIONS.get(task.main_dtype, _PRECISIONS["float32"])
    remark = "memory, with whatever is in it" if empty else "random numbers, soon overwritten"
    return recipes.recipe(
        recipes.header(task, "from lightning_fabric import Fabric"),
        f"""
fabric = Fabric(accelerator={accelerator!r}, devices={devices}, precision={precision!r})
with fabric.init_module(empty_init={empty}):
    model = Model(config)  # {remark}
fabric.load_raw(files[0], model, weights_only=True)
""",
    )


def _built(task: LoadTask) -> LoadTask:
    return task.built_in(task.main_dtype)


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from steps.reserve(_built(task))
    yield from steps.load_all(_built(task), to_device=False, untouched=True)


def _lacks(task: LoadTask) -> str | None:
    checkpoint = task.checkpoint
    plain = not checkpoint.entry and not checkpoint.mixed and not checkpoint.prefix
    if plain and checkpoint.layout in ("torch", "meta", "litgpt") and len(checkpoint.files) == 1:
        return "load_raw is told weights_only=True: leave --trust-pickle out" if task.options.trust_pickle else None
    return "Fabric.load_raw takes one file of torch.save that holds a state dict and nothing else"


STRATEGY = Strategy(
    id="fabric-init-module",
    summary="Lightning Fabric's init_module(empty_init=True), then load_raw: empty memory, then the state dict",
    good="Lightning users: no random numbers, and the final dtype from the start",
    bad="holds model and checkpoint at once; what the checkpoint lacks is left as garbage",
    recipe=lambda task: recipe(task, empty=True),
    ledger=_ledger,
    maps=lambda _: False,
    built_dtype=lambda task: task.main_dtype,
    lacks=_lacks,
    packages=(packages.FABRIC,),
    kinds=("cpu", "cuda", "mps"),
)
