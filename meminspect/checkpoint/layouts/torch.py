"""Layout `torch`: one file of torch.save under any name, by itself or in a folder.

The state dict is at the top of it, or an entry of a training checkpoint, as Lightning's `state_dict`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meminspect.checkpoint.assembling import assembled
from meminspect.checkpoint.folders import file_names, member, read_config, still_there
from meminspect.checkpoint.index import INDEX
from meminspect.checkpoint.layouts import dcp, litgpt, meta, per_tensor
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.reading import refusal
from meminspect.checkpoint.torch_file import looks_like_torch, read_torch_file
from meminspect.text import listed

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["LAYOUT"]

_CONVENTIONAL = "pytorch_model.bin"  # what transformers looks for second, after safetensors
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".pth.tar", ".pt.tar")
_CONFIGS = "config.json", "params.json"
_SHARD = re.compile(r".*-\d{5}-of-(?!00001)\d{5}\.(bin|pth|pt)", re.DOTALL)
# What transformers, accelerate and DeepSpeed keep beside the weights: no model is in them.
_NOT_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|sampler|.*optim_states)[\w-]*\.(bin|pth?|ckpt)"
)


def _claims(path: Path) -> tuple[str, ...]:
    if path.is_file():
        # torch itself goes by the name of a safetensors file, whatever is in it.
        others = (litgpt.LAYOUT, meta.LAYOUT, dcp.LAYOUT)
        taken = path.suffix == ".safetensors" or any(layout.claims(path) for layout in others)
        return (path.name,) if not taken and (path.name.endswith(_SUFFIXES) or looks_like_torch(path)) else ()
    if per_tensor.LAYOUT.claims(path):
        return ()
    names = _weights(path)
    if _CONVENTIONAL in names:
        return (_CONVENTIONAL,)
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if any(name.endswith(f".bin{INDEX}") for name in file_names(path)):
        return tuple(name for name in names if name not in shards)
    return tuple(name for name in names if name not in shards[1:])


def _weights(folder: Path) -> list[str]:
    """The files of a folder that may be weights, without those of layouts that know them by name."""
    return [
        name
        for name in file_names(folder)
        if name.endswith(_SUFFIXES)
        and not _NOT_WEIGHTS.fullmatch(name)
        and not (litgpt.is_weights(name) or meta.is_weights(name))
    ]


def _read(path: Path) -> Checkpoint:
    if path.is_file():
        return _read_file(path, path, ())
    name = still_there(path, _claims(path))
    shards = [name for name in _weights(path) if _SHARD.fullmatch(name)]
    if name in shards:
        raise refusal(
            path, f"holds {len(shards)} shards but not their index: {listed(shards)}", f"fetch {_CONVENTIONAL}{INDEX}"
        )
    others = [other for other in _weights(path) if other != name]
    warnings = (f"not read, since {name} is the folder's checkpoint: {listed(others)}",) if others else ()
    return _read_file(path, member(path, name), warnings)


def _read_file(path: Path, file: Path, warnings: tuple[str, ...]) -> Checkpoint:
    part = read_torch_file(file, file.name)
    if _SHARD.fullmatch(file.name):
        # The config beside a shard describes the whole model, which this file is not.
        more: tuple[str, ...] = (f"{listed([file.name])} is one shard of a larger checkpoint, read alone",)
        return assembled(path, LAYOUT.id, [part], None, (*warnings, *more))
    config, more = read_config(file.parent, _CONFIGS)
    return assembled(path, LAYOUT.id, [part], config, (*warnings, *more))


LAYOUT = Layout("torch", "one file of torch.save: .pth, .pt, .bin, .ckpt, under any name", _claims, _read)
