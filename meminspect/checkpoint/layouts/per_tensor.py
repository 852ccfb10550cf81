"""Layout `per-tensor`: a folder with one file for each tensor, NAME.pt, as `torch.save(tensor, path)` writes it.

Source: https://github.com/rasbt/LLMs-from-scratch, ch05/08_memory_efficient_weight_loading.
"""

from __future__ import annotations

import struct
from pathlib import PurePath
from typing import TYPE_CHECKING

from meminspect.checkpoint.folders import file_names, member, read_config, still_there
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.model import Checkpoint, CheckpointFile
from meminspect.checkpoint.reading import open_header, refusal
from meminspect.checkpoint.torch_file import read_torch_tensor
from meminspect.errors import CheckpointError
from meminspect.text import shown

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import StoredTensor

__all__ = ["LAYOUT"]

_SUFFIXES = ".pt", ".pth"
_CONFIGS = "config.json", "params.json"
_HEAD_BYTES = 1024  # a local header, the longest name of a file as a record's root, and the start of its pickle
_LOCAL = struct.Struct("<4s5H3L2H")
# What protocol 2 begins with where the root is a tensor or parameter rather than a mapping (torch/_tensor.py).
_TENSOR_PICKLES = b"\x80\x02ctorch._utils\n_rebuild_", b"\x80\x02ctorch._tensor\n_rebuild_"


def _claims(path: Path) -> tuple[str, ...]:
    """A folder in which all are tensors: beside a state dict, a tensor is something else."""
    names = _candidates(path)
    return tuple(names[:1]) if all(_holds_tensor(path / name) for name in names) else ()


def _candidates(folder: Path) -> list[str]:
    names = [name for name in file_names(folder) if PurePath(name).suffix in _SUFFIXES]
    return [name for name in names if not name.startswith("consolidated.")]  # Meta's own, whatever is in them


def _holds_tensor(file: Path) -> bool:
    """Whether the archive's first record, which torch makes its pickle, is that of a tensor by itself."""
    try:
        with open_header(file) as header:
            head = header.read(0, min(header.nbytes, _HEAD_BYTES))
    except CheckpointError:  # reading it for good will say so
        return False
    if len(head) < _LOCAL.size:
        return False
    magic, *_, name_len, extra_len = _LOCAL.unpack_from(head)
    return magic == b"PK\3\4" and head[_LOCAL.size + name_len + extra_len :].startswith(_TENSOR_PICKLES)


def _read(path: Path) -> Checkpoint:
    names = _candidates(path)
    still_there(path, names)
    _check_stems(path, names)
    files: list[CheckpointFile] = []
    tensors: list[StoredTensor] = []
    for name in names:
        file, tensor = _read_file(member(path, name), name, len(files))
        files.append(file)
        tensors.append(tensor)
    config, warnings = read_config(path, _CONFIGS)
    return Checkpoint(path, LAYOUT.id, tuple(files), tuple(tensors), config, warnings=warnings)


def _check_stems(folder: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        earlier = seen.setdefault(PurePath(name).stem, name)
        if earlier != name:
            raise refusal(
                folder,
                f"holds the tensor '{shown(PurePath(name).stem)}' twice: {shown(earlier)} and {shown(name)}",
                "keep one of them",
            )


def _read_file(path: Path, name: str, index: int) -> tuple[CheckpointFile, StoredTensor]:
    with open_header(path) as file:
        return CheckpointFile(name, path, file.nbytes), read_torch_tensor(file, PurePath(name).stem, index)


LAYOUT = Layout("per-tensor", "a folder with one torch.save file for each tensor, named after it", _claims, _read)
