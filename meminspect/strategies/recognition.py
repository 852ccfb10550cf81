"""What a checkpoint is of, also where a wrapper's name stands before every tensor's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeGuard

from meminspect.architectures import Headers, detect, skeleton
from meminspect.checkpoint.wrappers import ALWAYS_WRAPPERS, inner_wrappers, unwrapped
from meminspect.errors import CheckpointError
from meminspect.text import shown

if TYPE_CHECKING:
    from meminspect.architectures import Detection
    from meminspect.architectures.own import OwnModel
    from meminspect.checkpoint.model import Checkpoint

__all__ = ["recognised"]


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
    bare = checkpoint
    for bare in unwrapped(checkpoint):
        below = _detected(bare, own)
        if _is_model(below):
            return bare, _noted(below, f"every name begins with {shown(bare.prefix)}, which is left out")
    if isinstance(found, CheckpointError):
        raise found
    prefix = bare.prefix.removeprefix(checkpoint.prefix)
    if any(wrapper in prefix for wrapper in ALWAYS_WRAPPERS):
        strips = f"name.removeprefix({prefix!r}) strips"
        found = _noted(found, f"every name begins with {prefix}, which a wrapper puts there and {strips}")
    for wrapper in inner_wrappers(bare):
        strips = f"name.replace({wrapper!r}, '') strips"
        found = _noted(found, f"names have {wrapper} within, which a wrapper of a part puts there and {strips}")
    return checkpoint, found


def _is_model(found: Detection | CheckpointError) -> TypeGuard[Detection]:
    """Whether it is a model that somebody has written, rather than a skeleton."""
    return not isinstance(found, CheckpointError) and found.architecture.id != skeleton.ID


def _noted(found: Detection, note: str) -> Detection:
    return dataclasses.replace(found, note="; ".join(filter(None, (note, found.note))))


def _detected(checkpoint: Checkpoint, own: OwnModel | None) -> Detection | CheckpointError:
    """What a checkpoint is of, or why it is nothing that can be loaded, or not the user's own model."""
    parallel_files = len(checkpoint.files) if checkpoint.parallel_files else 1
    tensors = {
        name: (chunk.whole_shape if chunk else shape, dtype)
        for name, dtype, shape, _, _, _, chunk, _ in checkpoint.tensors
    }
    headers = Headers(checkpoint.config, tensors, checkpoint.tied, parallel_files)
    try:
        if own is None:
            return detect(headers.config, headers.tensors, headers.tied, parallel_files)
        return own.detection(headers)
    except CheckpointError as error:
        return error
