"""The tiny checkpoint on which a worker runs its strategy once before the baseline is taken."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from meminspect.checkpoint import read_checkpoint
from meminspect.errors import CheckpointError, UsageError
from meminspect.synthesis import DTYPES, naming_for, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.strategies import LoadTask

__all__ = ["tiny_twin"]

_GENERATION: Final = "warm-up-2"  # counts up when what is written changes
_WRITERS: Final = {
    "meta": "meta", "safetensors": "safetensors", "safetensors-sharded": "safetensors", "torch": "bin",
    "torch-sharded": "bin", "litgpt": "litgpt", "per-tensor": "per-tensor", "dcp": "dcp", "gguf": "gguf",
}  # fmt: skip
_SHARDED: Final = "-sharded"


@contextlib.contextmanager
def tiny_twin(task: LoadTask) -> Iterator[Path]:
    """A checkpoint of a few kilobytes that takes the same path through the loader: from the cache, or a passing one."""
    dtypes = task.checkpoint.dtypes
    dtype = max(dtypes, key=lambda name: dtypes[name][1], default="float32")
    dtype = dtype if dtype in DTYPES else "float32"
    shards = 2 if task.checkpoint.parallel_files or task.checkpoint.layout.endswith(_SHARDED) else 1
    layout = _WRITERS[task.checkpoint.layout]
    architecture, naming = task.architecture.id, task.architecture.naming
    try:
        fits = naming == naming_for(architecture, layout)
    except (KeyError, UsageError):
        fits = False
    if not fits:
        # The same files with another model's tensors: what is warmed up is torch and the reader of the layout.
        architecture = "litgpt" if layout == "litgpt" else "llama"
        naming = naming_for(architecture, layout)
    name = f"{layout}-{shards}-{architecture}-{naming}-{dtype}"
    with contextlib.ExitStack() as stack:
        folder = _cache() / _GENERATION / name
        if not _is_whole(folder):
            try:
                tiny_checkpoint(architecture, naming, layout, dtype, folder, shards=shards)
            except UsageError:
                if not _is_whole(folder):  # nor has another process been faster: a passing folder will do
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meminspect-"))) / name
                    tiny_checkpoint(architecture, naming, layout, dtype, folder, shards=shards)
        yield folder


def _cache() -> Path:
    """The cache folder; where there is none, one that cannot be written stands for it."""
    try:
        return platformdirs.user_cache_path("meminspect")
    except RuntimeError:  # no home folder
        return Path(os.devnull)


def _is_whole(folder: Path) -> bool:
    """Whether the checkpoint is there; somebody may have emptied the cache half."""
    try:
        read_checkpoint(folder)
    except CheckpointError:
        return False
    return True
