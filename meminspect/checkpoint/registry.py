"""The layouts that can be read, and the one function that reads any of them."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from meminspect.checkpoint.folders import describe_folder, several, snapshot
from meminspect.checkpoint.foreign import recognise
from meminspect.checkpoint.layouts import (
    dcp,
    gguf,
    litgpt,
    meta,
    per_tensor,
    safetensors,
    safetensors_sharded,
    torch,
    torch_sharded,
)
from meminspect.checkpoint.quantised import quantisation
from meminspect.checkpoint.reading import open_header, os_refusal, refusal
from meminspect.collection import collection_paused

if TYPE_CHECKING:
    from meminspect.checkpoint.layouts.base import Layout
    from meminspect.checkpoint.model import Checkpoint
    from meminspect.errors import CheckpointError

__all__ = ["LAYOUTS", "read_checkpoint"]

# One line a layout; `layout.id` is the key by which a checkpoint names it.
LAYOUTS: tuple[Layout, ...] = (
    meta.LAYOUT,
    safetensors.LAYOUT,
    safetensors_sharded.LAYOUT,
    torch.LAYOUT,
    torch_sharded.LAYOUT,
    litgpt.LAYOUT,
    per_tensor.LAYOUT,
    dcp.LAYOUT,
    gguf.LAYOUT,
)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read the headers of a checkpoint: a file, or the folder that holds it. No tensor data is read, no code runs.

    Raises:
        SeveralCheckpointsError: the folder holds more than one, of which the user has to name one.
        CheckpointError: there is no such path, it holds no checkpoint that is read, or the checkpoint is damaged,
            incomplete or hostile. The message is one printable line that begins with the path.
    """
    path = Path(path)
    try:
        with collection_paused():
            path = snapshot(path)
            checkpoint = _choose(path).read(path)
    except OSError as error:  # a file that vanishes between two looks at it
        raise os_refusal(path, error) from error
    return replace(checkpoint, quantisation=checkpoint.quantisation or quantisation(checkpoint))


def _choose(path: Path) -> Layout:
    if "\0" in str(path):
        raise refusal(path, "is not a path")
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise refusal(path, "is not a regular file", "name a checkpoint file or its folder")
    claims = [(layout, name) for layout in LAYOUTS for name in layout.claims(path)]
    if len(claims) > 1:
        raise several(path, {name: layout.id for layout, name in claims})
    if not claims:
        raise describe_folder(path) if stat.S_ISDIR(mode) else _describe_file(path)
    return claims[0][0]


def _describe_file(path: Path) -> CheckpointError:
    with open_header(path) as file:
        foreign = recognise(file)
    if foreign is None:
        return refusal(path, "is not a checkpoint that is read", "name its weights, their index or their folder")
    return refusal(path, f"is {foreign.what}", foreign.hint)
