"""Layout `safetensors`: one file, by itself or alone in its folder with a config.json."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meminspect.checkpoint.folders import file_names, member, read_config, still_there
from meminspect.checkpoint.index import INDEX
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.model import Checkpoint
from meminspect.checkpoint.reading import refusal
from meminspect.checkpoint.safetensors_header import looks_like_safetensors, read_safetensors
from meminspect.text import listed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LAYOUT"]

SUFFIX = ".safetensors"
_CONVENTIONAL = "model.safetensors"  # what transformers looks for first
_CONFIGS = "config.json", "params.json"  # Hugging Face's; Mistral's, beside consolidated.safetensors
_SHARD = re.compile(r".*-\d{5}-of-(?!00001)\d{5}\.safetensors", re.DOTALL)


def _claims(path: Path) -> tuple[str, ...]:
    if path.is_file():
        # A blob of a Hugging Face cache is named by its hash.
        found = path.suffix == SUFFIX or (not path.suffix and looks_like_safetensors(path))
        return (path.name,) if found else ()
    names = file_names(path)
    single = tuple(name for name in names if name.endswith(SUFFIX))
    if _CONVENTIONAL in single:
        return (_CONVENTIONAL,)
    if any(name.endswith(f"{SUFFIX}{INDEX}") for name in names):
        return ()
    return single[:1] if all(map(_SHARD.fullmatch, single)) else single


def _read(path: Path) -> Checkpoint:
    if path.is_file():
        return _read_file(path, path, path.name, ())
    names = [name for name in file_names(path) if name.endswith(SUFFIX)]
    if _CONVENTIONAL in names and len(names) > 1:
        others = [name for name in names if name != _CONVENTIONAL]
        warnings = (f"not read, since {_CONVENTIONAL} is the folder's checkpoint: {listed(others)}",)
        return _read_file(path, member(path, _CONVENTIONAL), _CONVENTIONAL, warnings)
    name = still_there(path, names)
    if len(names) > 1:
        raise refusal(
            path,
            f"holds {len(names)} safetensors files but not their index: {listed(names)}",
            "fetch model.safetensors.index.json as well",
        )
    return _read_file(path, member(path, name), name, ())


def _read_file(path: Path, file: Path, name: str, warnings: tuple[str, ...]) -> Checkpoint:
    part = read_safetensors(file, name)
    if _SHARD.fullmatch(name):
        # The config beside a shard describes the whole model, which this file is not.
        config = None
        more: tuple[str, ...] = (f"{listed([name])} is one shard of a larger checkpoint, read alone",)
    else:
        config, more = read_config(file.parent, _CONFIGS)
    return Checkpoint(path, LAYOUT.id, (part.file,), part.tensors, config, warnings=(*warnings, *part.warnings, *more))


LAYOUT = Layout("safetensors", "one safetensors file, or a folder with one", _claims, _read)
