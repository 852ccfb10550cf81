"""Layout `gguf`: one file as llama.cpp reads it, or the parts that `gguf-split` makes of one.

Format: gguf_header; the names of parts: https://github.com/ggml-org/llama.cpp, tools/gguf-split
(`NAME-00001-of-00003.gguf`, the first with the values).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meminspect.checkpoint.folders import file_names, member, still_there
from meminspect.checkpoint.gguf_header import MAGIC, Gguf, read_gguf
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.model import Checkpoint
from meminspect.checkpoint.reading import open_header, refusal
from meminspect.dtypes import GGML_BLOCKS
from meminspect.errors import CheckpointError
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LAYOUT"]

SUFFIX = ".gguf"
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def _claims(path: Path) -> tuple[str, ...]:
    if path.is_file():
        # A blob of a Hugging Face cache or of ollama is named by its hash.
        return (path.name,) if path.suffix == SUFFIX or ("." not in path.name and _has_magic(path)) else ()
    names = [name for name in file_names(path) if name.endswith(SUFFIX)]
    return tuple(name for name in names if not _is_later_part(name)) or tuple(names[:1])


def _has_magic(path: Path) -> bool:
    try:
        with open_header(path) as file:
            return file.nbytes >= len(MAGIC) and file.read(0, len(MAGIC)) == MAGIC
    except CheckpointError:  # reading it for good will say so
        return False


def _read(path: Path) -> Checkpoint:
    folder, name = (path.parent, path.name) if path.is_file() else (path, still_there(path, _claims(path)))
    part = _PART.fullmatch(name)
    names = [name] if part is None else _parts(folder, part)
    # A link that the user names is one that the user trusts.
    paths = [path if path.is_file() and one == name else member(folder, one) for one in names]
    headers = [read_gguf(file, file.name, index) for index, file in enumerate(paths)]
    _check_names(headers)
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    if not tensors:
        raise refusal(paths[0], "holds no tensors: a vocabulary, it may be", "name the file of the weights")
    return Checkpoint(
        path,
        LAYOUT.id,
        tuple(header.file for header in headers),
        tensors,
        quantisation=_quantisation(headers),
    )


def _is_later_part(name: str) -> bool:
    part = _PART.fullmatch(name)
    return part is not None and int(part[2]) > 1


def _parts(folder: Path, part: re.Match[str]) -> list[str]:
    there = set(file_names(folder))
    expected = [f"{part[1]}-{number:05}-of-{part[3]}{SUFFIX}" for number in range(1, int(part[3]) + 1)]
    missing = [name for name in expected if name not in there]
    if missing or not expected:
        raise refusal(
            folder, f"lacks {len(missing):,} of the {len(expected):,} parts: {listed(missing)}", "finish the download"
        )
    return expected


def _check_names(headers: list[Gguf]) -> None:
    holders: dict[str, str] = {}
    for header in headers:
        for tensor in header.tensors:
            earlier = holders.setdefault(tensor.name, header.file.name)
            if earlier != header.file.name:
                raise refusal(
                    header.file.path,
                    f"holds the tensor '{shown(tensor.name)}', and so does {shown(earlier)}",
                    "fetch the parts again, of one revision",
                )


def _quantisation(headers: list[Gguf]) -> str | None:
    blocks = {tensor.dtype for header in headers for tensor in header.tensors} & GGML_BLOCKS.keys()
    if not blocks:
        return None
    return f"GGUF blocks of {', '.join(sorted(blocks))}"


LAYOUT = Layout("gguf", "a GGUF file, or the parts of a split one", _claims, _read)
