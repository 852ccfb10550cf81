"""What a checkpoint is of, also where a wrapper's name stands before every tensor's.

DistributedDataParallel keeps its model as `module`, torch.compile as `_orig_mod`, and a LightningModule mostly as
`model`; `state_dict` puts that before each name, and whoever loads into the bare model strips it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, TypeGuard

from meminspect.architectures import Headers, detect, skeleton
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.architectures import Detection
    from meminspect.architectures.own import OwnModel
    from meminspect.checkpoint.model import Checkpoint

__all__ = ["recognised"]

_WRAPPERS: Final = ("module.", "_orig_mod.", "model.")
_ALWAYS_WRAPPERS: Final = _WRAPPERS[:2]  # a model of its own may well be all below "model"
_STRIPPING: Final = ("safetensors", "safetensors-sharded", "torch", "torch-sharded")
"""The layouts whose recipes strip a prefix."""


def recognised(checkpoint: Checkpoint, own: OwnModel | None) -> tuple[Checkpoint, Detection]:
    """The checkpoint, without a wrapper's prefix where its names are the model's only then, and what it is of.

    Args:
        checkpoint: its headers.
        own: the user's own model, if it is to be loaded into that.

    Raises:
        CheckpointError: its configuration is absurd, slices are of no known architecture, or it is another model's.
    """
    found = _detected(checkpoint, own)
    if _is_model(found):
        return checkpoint, found
    prefix = ""
    for prefix in _prefixes(checkpoint):
        bare = _without(checkpoint, prefix)
        below = _detected(bare, own)
        if _is_model(below):
            return bare, _noted(below, f"every name begins with {prefix}, which the recipes strip")
    if isinstance(found, CheckpointError):
        raise found
    if any(wrapper in prefix for wrapper in _ALWAYS_WRAPPERS):
        strips = f"name.removeprefix({prefix!r}) strips"
        found = _noted(found, f"every name begins with {prefix}, which a wrapper puts there and {strips}")
    return checkpoint, found


def _is_model(found: Detection | CheckpointError) -> TypeGuard[Detection]:
    """Whether it is a model that somebody has written, rather than a skeleton."""
    return not isinstance(found, CheckpointError) and found.architecture.id != skeleton.ID


def _noted(found: Detection, note: str) -> Detection:
    return dataclasses.replace(found, note="; ".join(filter(None, (note, found.note))))


def _detected(checkpoint: Checkpoint, own: OwnModel | None) -> Detection | CheckpointError:
    """What a checkpoint is of, or why it is not the user's own model's."""
    parallel_files = len(checkpoint.files) if checkpoint.parallel_files else 1
    tensors = {tensor.name: (tensor.whole_shape, tensor.dtype) for tensor in checkpoint.tensors}
    headers = Headers(checkpoint.config, tensors, checkpoint.tied, parallel_files)
    if own is None:
        return detect(headers.config, headers.tensors, headers.tied, parallel_files)
    try:
        return own.detection(headers)
    except CheckpointError as error:
        return error


def _prefixes(checkpoint: Checkpoint) -> Iterator[str]:
    """What wrappers have put before every name, one wrapper at a time."""
    names = [tensor.name for tensor in checkpoint.tensors] if checkpoint.layout in _STRIPPING else []
    prefix = ""
    while names:
        found = next((one for one in _WRAPPERS if all(name.startswith(one, len(prefix)) for name in names)), None)
        if found is None:
            return
        prefix += found
        yield prefix


def _without(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    tensors = tuple(one._replace(name=one.name.removeprefix(prefix)) for one in checkpoint.tensors)
    return dataclasses.replace(checkpoint, tensors=tensors, prefix=prefix)
