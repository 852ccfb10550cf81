"""What every strategy is: words, a recipe that runs, and a theory of what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.dtypes import BITS
from meminspect.strategies import recipes
from meminspect.strategies.task import CASTABLE
from meminspect.text import shown
from meminspect.theory.ledger import Theory, evaluate
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["Strategy"]

_BYTE = 8


@dataclass(frozen=True)
class Strategy:
    """A way of loading; each lives in a file of its own, named after its id."""

    id: str
    summary: str  # what it does, in one line
    good: str  # when to use it
    bad: str  # what it costs
    recipe: Callable[[LoadTask], str]  # the PyTorch that a user would paste, which is what is executed
    ledger: Callable[[LoadTask], Iterator[Step]]  # every allocation and release, in order
    maps: Callable[[LoadTask], bool]  # whether it maps whole files rather than reading them
    casts: bool = True  # whether the loaded model has the dtype that was asked for

    def theory(self, task: LoadTask) -> Theory:
        """What loading this task must cost."""
        return evaluate(self.ledger(task.coarse), task.coarse.floor_bytes)

    def remark(self, task: LoadTask) -> str:
        """In one sentence what a user may not expect of the load; empty when it is as anybody would."""
        dtype, built = task.options.dtype, task.options.init_dtype
        remarks = []
        if not self.casts and dtype not in (None, built):
            remarks.append(f"the model stays in {built}, which it was built in: this strategy does not cast to {dtype}")
        if "weights_only=False" in self.recipe(task):
            remarks.append("pickles were trusted (weights_only=False)")
        return "; ".join(remarks)

    def why_not(self, task: LoadTask, largest_mapping_bytes: int | None = None) -> str | None:
        """In one sentence why this task cannot be loaded this way; None when it can.

        Args:
            task: what to load.
            largest_mapping_bytes: the most that the machine lets a process map at once; None for no bound.
        """
        options = task.options
        if options.device != "cpu":
            return f"device '{options.device}' is not supported yet: use cpu"
        for dtype in (options.dtype, options.init_dtype):
            if dtype is not None and dtype not in CASTABLE:
                return f"a model cannot be cast to {dtype}: use one of {', '.join(CASTABLE)}"
        odd = next((tensor for tensor in task.checkpoint.tensors if BITS[tensor.dtype] < _BYTE), None)
        if odd is not None:
            return f"{shown(odd.name)} is {odd.dtype}: torch has no tensor of that shape and type"
        unmet = recipes.unmet(self.recipe(task), options.interpreter)
        if unmet is not None:
            return unmet
        largest = max((file.nbytes for file in task.checkpoint.files), default=0)
        if largest_mapping_bytes is not None and largest > largest_mapping_bytes and self.maps(task):
            return (
                f"it maps a file of {format_bytes(largest)} at once, and this machine's kernel allows "
                f"{format_bytes(largest_mapping_bytes)} (vm.overcommit_memory); smaller shards can be mapped"
            )
        if task.checkpoint.parallel_files and task.architecture.id == "skeleton":
            return "these are model-parallel slices of an unknown architecture: nobody says how to join them"
        return None
