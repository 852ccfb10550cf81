"""Layout `meta`: params.json and consolidated.00.pth, or one such file for each model-parallel rank.

Format: https://github.com/meta-llama/llama/blob/main/llama/generation.py, `Llama.build`: rank N loads the Nth of the
sorted *.pth, each a state dict of the same names whose split tensors hold that rank's slice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meminspect.checkpoint.assembling import assembled
from meminspect.checkpoint.folders import MAX_CONFIG_BYTES, file_names, member
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.reading import refusal
from meminspect.checkpoint.strict_json import read_object
from meminspect.checkpoint.torch_file import read_torch_file
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint
    from meminspect.checkpoint.reading import Part

__all__ = ["LAYOUT", "is_weights"]

PARAMS = "params.json"
_OTHERS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".distcp", ".gguf")
_CONSOLIDATED = re.compile(r"consolidated\.(\d\d)\.pth")


def is_weights(name: str) -> bool:
    """Whether a file of this name is this layout's."""
    return _CONSOLIDATED.fullmatch(name) is not None


def _claims(path: Path) -> tuple[str, ...]:
    if path.is_file():
        return (path.name,) if path.name == PARAMS or is_weights(path.name) else ()
    names = file_names(path)
    weights = [name for name in names if is_weights(name)]
    if weights:
        return (weights[0],)
    # Others keep a params.json beside weights of theirs, as Mistral beside its consolidated.safetensors.
    return (PARAMS,) if PARAMS in names and not any(name.endswith(_OTHERS) for name in names) else ()


def _read(path: Path) -> Checkpoint:
    """Read the whole checkpoint, also where one of its files is named: a slice by itself is no model."""
    named = path.name if path.is_file() else None
    folder = path.parent if named else path
    names = [name for name in file_names(folder) if _CONSOLIDATED.fullmatch(name)]
    _check_numbers(folder, names)
    # A link that the user names is one that the user trusts.
    paths = [folder / name if name == named else member(folder, name) for name in names]
    parts = [read_torch_file(file, file.name, index) for index, file in enumerate(paths)]
    _check_same_names(parts)
    config, warnings = _read_params(folder, named)
    return assembled(path, LAYOUT.id, parts, config, warnings, parallel_files=len(parts) > 1)


def _check_numbers(folder: Path, names: list[str]) -> None:
    if not names:
        raise refusal(folder, f"holds {PARAMS} but no consolidated.00.pth", "fetch the weights that belong to it")
    expected = [f"consolidated.{number:02d}.pth" for number in range(int(names[-1].split(".")[1]) + 1)]
    missing = [name for name in expected if name not in names]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise refusal(
            folder, f"{len(missing)} of {len(expected)} files {verb} missing: {listed(missing)}", "finish the download"
        )


def _check_same_names(parts: list[Part]) -> None:
    first = {tensor.name for tensor in parts[0].tensors}
    for part in parts[1:]:
        odd = sorted(first ^ {tensor.name for tensor in part.tensors})
        if odd:
            other = shown(parts[0].file.name)
            raise refusal(
                part.file.path,
                f"is not a slice of the same model as {other}: only one of them has {listed(odd)}",
                "keep each checkpoint in a folder of its own",
            )


def _read_params(folder: Path, named: str | None) -> tuple[dict[str, object] | None, tuple[str, ...]]:
    path = folder / PARAMS
    if not path.is_file():
        return None, (f"no {PARAMS} beside the weights: the model's shape is guessed from its tensors",)
    return read_object(path if named == PARAMS else member(folder, PARAMS), MAX_CONFIG_BYTES), ()


LAYOUT = Layout(
    "meta", "Meta's consolidated.NN.pth with params.json, one file or one a model-parallel rank", _claims, _read
)
