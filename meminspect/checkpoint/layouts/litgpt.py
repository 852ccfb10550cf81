"""Layout `litgpt`: lit_model.pth beside model_config.yaml, as LitGPT writes it, and Lit-LLaMA's lit-llama.pth.

Format: https://github.com/Lightning-AI/litgpt, litgpt/scripts/convert_hf_checkpoint.py and utils.py (`save_config`);
before 1.0 the config was lit_config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.assembling import assembled
from meminspect.checkpoint.flat_yaml import read_flat_yaml
from meminspect.checkpoint.folders import file_names, member, read_config, still_there
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.torch_file import read_torch_file
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["LAYOUT", "is_weights"]

_WEIGHTS = ("lit_model.pth", "lit-llama.pth")
_CONFIG = "model_config.yaml"
_OLD_CONFIG = "lit_config.json"


def is_weights(name: str) -> bool:
    """Whether a file of this name is this layout's."""
    return name in _WEIGHTS


def _claims(path: Path) -> tuple[str, ...]:
    names = [path.name] if path.is_file() else file_names(path)
    return tuple(name for name in names if is_weights(name))


def _read(path: Path) -> Checkpoint:
    folder = path.parent if path.is_file() else path
    file = path if path.is_file() else member(folder, still_there(folder, _claims(folder)))
    part = read_torch_file(file, file.name)
    config, warnings = _read_config(folder)
    return assembled(path, LAYOUT.id, [part], config, warnings)


def _read_config(folder: Path) -> tuple[dict[str, object] | None, tuple[str, ...]]:
    if not (folder / _CONFIG).is_file():
        return read_config(folder, (_OLD_CONFIG,))
    try:
        return read_flat_yaml(member(folder, _CONFIG)), ()
    except CheckpointError as error:
        return None, (f"{error.message}; going on without it",)


LAYOUT = Layout("litgpt", "LitGPT's lit_model.pth with model_config.yaml, and lit-llama.pth", _claims, _read)
