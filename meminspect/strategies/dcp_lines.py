"""Lines of recipes and steps of ledgers for torch.distributed.checkpoint, which reads into tensors that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import recipes
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["assign", "copy_chunks", "fill", "fill_chunks", "fill_model", "header"]


def header(task: LoadTask) -> str:
    """Imports and the folder."""
    folder = task.checkpoint.files[0].path.parent if task.checkpoint.files else task.checkpoint.path
    return f"""
{recipes.stand_ins(task)}
import torch
import torch.distributed.checkpoint as dcp
from pathlib import Path

folder = Path({str(folder)!r})
"""


def fill_model(task: LoadTask) -> str:
    """Read each chunk and copy it into the built model's own memory."""
    names = f"{{{task.checkpoint.prefix!r} + name: tensor for name, tensor in model.state_dict().items()}}"
    return f"""
state_dict = {names if task.checkpoint.prefix else "model.state_dict()"}
planner = dcp.DefaultLoadPlanner(allow_partial_load=True)  # what the checkpoint lacks stays as it is
dcp.load(state_dict, checkpoint_id=folder, planner=planner)  # copies each chunk into the model's own memory
del state_dict
"""


def fill(task: LoadTask) -> str:
    """Make room for the model's tensors in their final dtype, then read each chunk and copy it in."""
    prefix, dtype = task.checkpoint.prefix, "item.properties.dtype"
    if task.casts:
        dtype = f"torch.{task.options.dtype} if {dtype}.is_floating_point else {dtype}"
    wanted = 'hasattr(item, "size")' + (f" and name.startswith({prefix!r})" if prefix else "")
    return f"""
metadata = dcp.FileSystemReader(folder).read_metadata()
state_dict = {{
    name: torch.empty(item.size, dtype={dtype})
    for name, item in metadata.state_dict_metadata.items()
    if {wanted}
}}
dcp.load(state_dict, checkpoint_id=folder)  # reads chunk by chunk into them
"""


def assign(task: LoadTask) -> str:
    """Hand the tensors to the model under its own names."""
    prefix = task.checkpoint.prefix
    rename = f"state_dict = {{name.removeprefix({prefix!r}): tensor for name, tensor in state_dict.items()}}\n"
    return f"{rename if prefix else ''}model.load_state_dict(state_dict, assign=True)\ndel state_dict"


def fill_chunks(task: LoadTask) -> Iterator[Step]:
    """Chunks read into memory of their own, and the part of the final tensor that each makes resident."""

    def fill_part(chunk: StoredTensor) -> Step:
        nbytes = bytes_of(task.cast_dtype(chunk.dtype), chunk.elements)
        return Step("copy", Operation.MATERIALISE, Pool.HEAP, Item.FLOOR, chunk.name, nbytes)

    yield from _chunks(task, set(task.pieces), fill_part)


def copy_chunks(task: LoadTask) -> Iterator[Step]:
    """Chunks read into memory of their own and copied into a model that is there."""
    tied = {parameter.name: parameter.tied_to for parameter in task.architecture.parameters}

    def copy_part(chunk: StoredTensor) -> Step:
        return Step("copy", Operation.COPY, Pool.NONE, "", tied[chunk.name] or chunk.name, chunk.nbytes)

    yield from _chunks(task, set(tied), copy_part)


def _chunks(task: LoadTask, wanted: set[str], use: Callable[[StoredTensor], Step]) -> Iterator[Step]:
    """Each chunk in torch's order: read, used, and gone once the next one is there.

    torch/distributed/checkpoint/filesystem.py, `FileSystemReader.read_data`: by file, in each by the sorted names; its
    variable `tensor` keeps a chunk until the next is loaded.
    """
    by_file: dict[int, list[StoredTensor]] = {}
    for name in sorted(wanted & task.pieces.keys()):
        for chunk in task.pieces[name]:
            if chunk.elements:  # torch plans no reading for the others
                by_file.setdefault(chunk.storage.file, []).append(chunk)
    previous: Step | None = None
    for chunk in (chunk for chunks in by_file.values() for chunk in chunks):
        read = Step("read", Operation.MATERIALISE, Pool.HEAP, Item.STAGING, chunk.name, chunk.storage.nbytes)
        yield read
        if previous is not None:
            yield previous._replace(operation=Operation.RELEASE)
        yield use(chunk)
        previous = read
    if previous is not None:
        yield previous._replace(phase="copy", operation=Operation.RELEASE)
