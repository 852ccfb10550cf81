"""The layouts that can be read, and the one function that reads any of them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from meminspect.checkpoint.folders import describe_folder
from meminspect.checkpoint.foreign import recognise
from meminspect.checkpoint.layouts import meta, safetensors, safetensors_sharded
from meminspect.checkpoint.reading import open_header, os_refusal, refusal
from meminspect.collection import collection_paused
from meminspect.text import shown

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
)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read the headers of a checkpoint: a file, or the folder that holds it. No tensor data is read, no code runs.

    Raises:
        CheckpointError: there is no such path, it holds no checkpoint that is read or more than one, or the
            checkpoint is damaged, incomplete or hostile. The message is one printable line that begins with the path.
    """
    path = Path(path)
    try:
        with collection_paused():
            return _choose(path).read(path)
    except OSError as error:  # a file that vanishes between two looks at it
        raise os_refusal(path, error) from error


def _choose(path: Path) -> Layout:
    if "\0" in str(path):
        raise refusal(path, "is not a path")
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise refusal(path, "is not a regular file", "name a checkpoint file or its folder")
    claims = [(layout, marker) for layout in LAYOUTS if (marker := layout.claims(path)) is not None]
    if len(claims) > 1:
        found = ", ".join(f"{shown(marker)} ({layout.id})" for layout, marker in claims)
        raise refusal(path, f"holds more than one checkpoint: {found}", "name one of them with --ckpt FILE")
    if not claims:
        raise describe_folder(path) if stat.S_ISDIR(mode) else _describe_file(path)
    return claims[0][0]


def _describe_file(path: Path) -> CheckpointError:
    with open_header(path) as file:
        foreign = recognise(file)
    if foreign is None:
        return refusal(path, "is not a checkpoint that is read", "name a *.safetensors, its index or its folder")
    return refusal(path, f"is {foreign.what}", foreign.hint)
