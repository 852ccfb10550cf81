"""The one public function."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from meminspect.checkpoint.registry import read_checkpoint
from meminspect.checkpoint.wrappers import unwrapped
from meminspect.collection import collection_paused
from meminspect.errors import StreamError
from meminspect.staging import default_threads
from meminspect.stream.arrange import arrange
from meminspect.stream.models import assign, check_complete, initialise, places, self_initialising
from meminspect.stream.reading import read_all
from meminspect.stream.sending import can_pin
from meminspect.stream.slices import arrange_slices
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint
    from meminspect.stream.arrange import Arrangement
    from meminspect.stream.models import Place
    from meminspect.stream.reading import Observer

__all__ = ["load"]


@overload
def load(
    model: None,
    path: str | Path,
    *,
    device: str | torch.device = ...,
    dtype: torch.dtype | None = ...,
    threads: int | None = ...,
    progress: bool = ...,
    observer: Observer | None = ...,
) -> dict[str, torch.Tensor]: ...


@overload
def load(
    model: nn.Module | Callable[[], nn.Module],
    path: str | Path,
    *,
    device: str | torch.device = ...,
    dtype: torch.dtype | None = ...,
    threads: int | None = ...,
    strict: bool = ...,
    progress: bool = ...,
    observer: Observer | None = ...,
) -> nn.Module: ...


@torch.inference_mode(mode=False)  # which would be the caller's alone, and not that of the threads that write
def load(
    model: nn.Module | Callable[[], nn.Module] | None,
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    strict: bool = True,
    progress: bool = False,
    observer: Observer | None = None,
) -> nn.Module | dict[str, torch.Tensor]:
    """Load a checkpoint into memory of its own, as fast as it can be read, with nothing beside the model.

    What is loaded is bit by bit what `torch.load` or safetensors give; tensors that share memory in the checkpoint
    share it here. Nothing of a checkpoint is executed. What a wrapper has put before every name, as
    DistributedDataParallel its "module.", is left out where only then the names are the model's. The weights of layers
    that `quantise_linears` has put into the model are quantised as they are read.

    Args:
        model: a model whose parameters are on the meta device; or what makes one, called under that device; or None for
            a plain state dict.
        path: a checkpoint: a file, or its folder.
        device: where the tensors will be.
        dtype: what floating-point tensors become as they are read; None to leave them as they are stored.
        threads: how many read at once; None for one a processor, up to eight.
        strict: a model's missing and unexpected names are errors, as in `load_state_dict`. A name that is tied to one
            that the checkpoint has is not missing.
        progress: draw a bar on stderr.
        observer: is told of each tensor when its memory begins to be filled, is full, and is the model's.

    Returns:
        The model, with its tensors; or names, as they are in the checkpoint, and tensors.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of a kind that is not read.
        StreamError: it is not this model's, or changes or fails while it is read. No thread is left, and none of the
            model's parameters has been touched.
        MemoryError: there is no room.
    """
    device = torch.device(device)
    checkpoint = read_checkpoint(path)
    _require_plain_bytes(checkpoint)
    built = _built(model)
    wanted = None if built is None else places(built)
    if wanted is not None:
        checkpoint = _under_names_of(wanted, checkpoint)
    with collection_paused():
        arrangement = _arranged(checkpoint, wanted, dtype, device, strict=strict)
    lacking = [] if built is None or wanted is None else self_initialising(built, wanted, arrangement.tensors)
    with _bar(checkpoint, progress) as done:
        read_all(
            [file.path for file in checkpoint.files],
            [file.nbytes for file in checkpoint.files],
            arrangement.reads,
            threads or default_threads(),
            done,
            observer,
            pinned=can_pin(device),
        )
    if built is None or wanted is None:
        return {tensor.name: arrangement.tensors[tensor.name] for tensor in checkpoint.tensors}
    assign(wanted, arrangement, observer)
    initialise(lacking, device)
    return built


def _under_names_of(wanted: Sequence[Place], checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, without wrappers' names before its tensors' where only then the model has any of them."""
    known = {name for place in wanted for name in place.names}
    ways = itertools.chain([checkpoint], unwrapped(checkpoint))
    return next((way for way in ways if any(tensor.name in known for tensor in way.tensors)), checkpoint)


def _arranged(
    checkpoint: Checkpoint,
    wanted: Sequence[Place] | None,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    strict: bool,
) -> Arrangement:
    """The tensors that a model wants, or all of them."""
    if wanted is None:
        if checkpoint.parallel_files:
            raise StreamError(
                f"{checkpoint.path} is in slices, and only a model says how they join", "give it a model to load"
            )
        return arrange(checkpoint, [tensor.name for tensor in checkpoint.tensors], dtype, device)
    shapes = {tensor.name: tensor.shape for tensor in checkpoint.tensors}
    check_complete(wanted, shapes, joined=checkpoint.parallel_files, strict=strict)
    found = {name: place.shape for place in wanted if (name := place.name_in(shapes)) is not None}
    layers = {name: place.layer for place in wanted if (name := place.name_in(shapes)) and place.layer is not None}
    if not checkpoint.parallel_files:
        return arrange(checkpoint, found, dtype, device, layers)
    if layers:
        raise StreamError(
            f"'{shown(next(iter(layers)))}' is in slices, which are not quantised while they are read",
            "load the model as it is, or a checkpoint of whole tensors",
        )
    return arrange_slices(checkpoint, found, dtype, device)


def _require_plain_bytes(checkpoint: Checkpoint) -> None:
    """Refuse what is not the bytes of whole tensors, as memory has them."""
    turned = next((file for file in checkpoint.files if file.big_endian), None)
    if turned is not None:
        raise StreamError(f"{shown(turned.name)} is big-endian", "save it again on a little-endian machine")
    for tensor in checkpoint.tensors:
        if tensor.chunk is not None:
            raise StreamError(
                f"'{shown(tensor.name)}' is stored in chunks", "torch.distributed.checkpoint.load joins them"
            )
        if tensor.lazy:
            raise StreamError(
                f"'{shown(tensor.name)}' is stored conjugated or negated, so that its bytes are not its values",
                "save tensor.resolve_conj().resolve_neg()",
            )


def _built(model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module | None:
    if model is None or isinstance(model, nn.Module):
        return model
    with torch.device("meta"):
        return model()


@contextlib.contextmanager
def _bar(checkpoint: Checkpoint, visible: bool) -> Iterator[Callable[[int], Any]]:
    if not visible:
        yield lambda nbytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(checkpoint.path.name or str(checkpoint.path), total=checkpoint.nbytes)
        yield lambda nbytes: bar.advance(task, nbytes)
