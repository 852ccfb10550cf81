"""What every strategy is: words, a recipe that runs, and a theory of what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.devices import KINDS, is_device, kind_of
from meminspect.dtypes import BITS, GGML_BLOCKS, bytes_of
from meminspect.strategies import quantisation, recipes
from meminspect.strategies.own_readers import why_no_library, why_not_read
from meminspect.strategies.packages import why_not_installed
from meminspect.strategies.task import CASTABLE, QUANTISATIONS
from meminspect.text import listed, shown
from meminspect.theory.cuda_allocator import CachingAllocator
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import spelt_out
from meminspect.theory.metal_allocator import TensorsAlone
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.packages import Package
    from meminspect.strategies.task import LoadOptions, LoadTask
    from meminspect.theory.ledger import Step, Theory

__all__ = ["Strategy"]

_BYTE = 8
_NOT_IN_METAL = ("float64", "complex128")


def _nothing(_: LoadTask) -> Sequence[Parameter]:
    return ()


@dataclass(frozen=True)
class Strategy:
    """A way of loading; each lives in a file of its own, named after its id."""

    id: str
    summary: str  # what it does, in one line
    good: str  # when to use it
    bad: str  # what it costs
    recipe: Callable[[LoadTask], str]  # the PyTorch that a user would paste, which is what is executed
    ledger: Callable[[LoadTask], Iterator[Step]]  # every allocation and release, in order; rounds of them once
    maps: Callable[[LoadTask], bool]  # whether it maps whole files rather than reading them
    casts: bool = True  # whether the loaded model has the dtype that was asked for
    built_dtype: Callable[[LoadTask], str] = lambda task: task.options.init_dtype  # in which it builds the model
    own_floor_bytes: Callable[[LoadTask], int] | None = None  # Q of a library that quantises in its own way
    quantises: bool = False  # whether the loaded model's linear layers are quantised
    adds: Callable[[LoadTask], Sequence[Parameter]] = _nothing  # what the loaded model has beyond the checkpoint's
    offloads: Callable[[LoadTask], frozenset[str]] = lambda _: frozenset()  # the parameters that it leaves on disk
    scratch_bytes: Callable[[LoadTask], int] = lambda _: 0  # what it writes to a temporary folder, at most at once
    lacks: Callable[[LoadTask], str | None] = lambda _: None  # in one sentence what a task must have for it and has not
    unpickles: bool = True  # whether torch.load unpickles a pickle for it, which runs what that names
    own_readers: frozenset[str] = frozenset()  # of the layouts that only their own library reads, those it loads
    packages: tuple[Package, ...] = ()  # what its recipe imports that not every environment has
    kinds: tuple[str, ...] = KINDS  # of the devices that it loads to

    def steps(self, task: LoadTask) -> Iterator[Step]:
        """The ledger, every step by itself."""
        return spelt_out(self.ledger(task))

    def theory(self, task: LoadTask) -> Theory:
        """What loading this task must cost."""
        few = task.grouped
        allocator = TensorsAlone() if kind_of(task.options.device) == "mps" else CachingAllocator()
        return evaluate(self.ledger(few.task), self.floor_bytes(task), few.copies, allocator)

    def floor_bytes(self, task: LoadTask) -> int:
        """What the model that is loaded this way must occupy: T, Q where it is quantised, and what it has beyond.

        What it leaves on disk is no part of that.
        """
        if self.own_floor_bytes is not None:
            return self.own_floor_bytes(task)
        floor_bytes = quantisation.floor_bytes(task) if self.quantises else task.floor_bytes
        added_bytes = sum(bytes_of(task.initial_dtype(parameter), parameter.elements) for parameter in self.adds(task))
        return floor_bytes + added_bytes - task.target_bytes(self.offloads(task))

    @property
    def changes(self) -> bool:
        """Whether the loaded model is another one than the checkpoint's: quantised, or with parameters beyond it."""
        return self.quantises or self.own_floor_bytes is not None or self.adds is not _nothing

    def is_whole(self, task: LoadTask) -> bool:
        """Whether the loaded model is the checkpoint's, and all of it in memory."""
        return not self.changes and not self.offloads(task)

    def remark(self, task: LoadTask) -> str:
        """In one sentence what a user may not expect of the load; empty when it is as anybody would."""
        dtype, built = task.options.dtype, self.built_dtype(task)
        remarks = []
        if not self.casts and dtype not in (None, built):
            remarks.append(f"the model stays in {built}, which it was built in: this strategy does not cast to {dtype}")
        if task.options.trust_pickle and "weights_only=False" in self.recipe(task):
            remarks.append("pickles were trusted (weights_only=False)")
        left = self.offloads(task)
        if left:
            remarks.append(self._left_on_disk(task, left))
        return "; ".join(remarks)

    def _left_on_disk(self, task: LoadTask, left: frozenset[str]) -> str:
        """What is not in memory, and where it is."""
        scratch = format_bytes(self.scratch_bytes(task))
        written = f"; {scratch} were written to a temporary folder for it" if self.scratch_bytes(task) else ""
        return (
            f"{format_bytes(task.target_bytes(left))} of the model, {len(left)} tensors, are left on disk: "
            f"each pass reads them from there, and so did the verification{written}"
        )

    def why_not(self, task: LoadTask, largest_mapping_bytes: int | None = None) -> str | None:
        """In one sentence why this task cannot be loaded this way; None when it can.

        Args:
            task: what to load.
            largest_mapping_bytes: the most that the machine lets a process map at once; None for no bound.
        """
        general = _why_not_options(task.options) or self._why_not_on_device(task) or _why_not_in_torch(task)
        general = general or self._why_not_read(task)
        if general is not None:
            return general
        largest = max((file.nbytes for file in task.checkpoint.files), default=0)
        if largest_mapping_bytes is not None and largest > largest_mapping_bytes and self.maps(task):
            return (
                f"it maps a file of {format_bytes(largest)} at once, and this machine's kernel allows "
                f"{format_bytes(largest_mapping_bytes)} (vm.overcommit_memory); smaller shards can be mapped"
            )
        if task.checkpoint.parallel_files and task.architecture.id == "skeleton":
            return "these are model-parallel slices of an unknown architecture: nobody says how to join them"
        # What a task lacks, its recipe may lack the words for.
        lacks = self.lacks(task) or self._why_not_on_meta(task) or self._unmet(task)
        return lacks or why_not_installed(self.packages, task.options.interpreter)

    def _why_not_on_device(self, task: LoadTask) -> str | None:
        """Why its library, or the device, cannot hold the model."""
        kind = kind_of(task.options.device)
        if kind not in self.kinds:
            return f"its library does not load to {kind}: use {listed(self.kinds)}"
        if kind != "mps":
            return None
        dtypes = {*task.checkpoint.dtypes, self.built_dtype(task), task.options.dtype}
        odd = next((dtype for dtype in _NOT_IN_METAL if dtype in dtypes), None)
        return None if odd is None else f"Metal, which mps is, has no {odd}"

    def _why_not_on_meta(self, task: LoadTask) -> str | None:
        """Why a model cannot be built without memory: of what no state dict holds, its constructor has the values."""
        if not task.unsaved or recipes.ON_META not in self.recipe(task):
            return None
        name = shown(task.unsaved[0].name)
        return f"it builds the whole model on meta, where {name}, which no state dict holds, gets no values"

    def _why_not_read(self, task: LoadTask) -> str | None:
        """Why its recipe cannot read the files."""
        unread = why_not_read(task, self.own_readers) or why_no_library(task, self.recipe)
        if unread is not None:
            return unread
        if task.checkpoint.untrusted and self.unpickles and not task.options.trust_pickle:
            return (
                f"torch.load runs {listed(task.checkpoint.untrusted)} only for those who trust the file, which takes "
                "--trust-pickle; or save its state dict by itself"
            )
        unmappable = next((file for file in task.checkpoint.files if file.unmappable), None)
        if unmappable is not None and self.maps(task):
            return f"{shown(unmappable.name)} {unmappable.unmappable}"
        return None

    def _unmet(self, task: LoadTask) -> str | None:
        """Why the worker's environment cannot run the recipe; our own has what meminspect requires."""
        interpreter = task.options.interpreter
        return None if interpreter.python is None else recipes.unmet(self.recipe(task), interpreter)


def _why_not_options(options: LoadOptions) -> str | None:
    """Why no strategy can do what the options say."""
    if not is_device(options.device):
        return f"there is no device '{shown(options.device)}' to load to: use cpu, cuda, xpu or mps"
    for dtype in (options.dtype, options.init_dtype):
        if dtype is not None and dtype not in CASTABLE:
            return f"a model cannot be cast to {dtype}: use one of {', '.join(CASTABLE)}"
    if options.quantisation not in QUANTISATIONS:
        return f"there is no quantisation '{options.quantisation}': use one of {', '.join(QUANTISATIONS)}"
    return None


def _why_not_in_torch(task: LoadTask) -> str | None:
    """Why torch cannot hold one of the tensors as it is stored."""
    odd = {dtype for dtype in task.checkpoint.dtypes if dtype in GGML_BLOCKS or BITS[dtype] < _BYTE}
    tensor = next((tensor for tensor in task.checkpoint.tensors if tensor.dtype in odd), None) if odd else None
    if tensor is None:
        return None
    if tensor.dtype in GGML_BLOCKS:
        return f"{shown(tensor.name)} is {tensor.dtype}, which torch does not have: convert it to F16 or BF16"
    return f"{shown(tensor.name)} is {tensor.dtype}: torch has no tensor of that shape and type"
