"""What the strategies that load through transformers share: which checkpoints, and the words of their recipes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from meminspect.architectures import transformers_class
from meminspect.capture.records import Operation, Pool
from meminspect.devices import kind_of
from meminspect.strategies.sources import Sources
from meminspect.strategies.task import CASTABLE
from meminspect.text import shown
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = [
    "allocator_warmup",
    "as_loaded",
    "auto_class",
    "built",
    "built_dtype",
    "by_name",
    "dtype_argument",
    "folder",
    "folder_path",
    "has_head",
    "imports",
    "mapped_sources",
    "why_not",
    "why_not_built",
]

_LAYOUTS: Final = ("safetensors", "safetensors-sharded", "torch", "torch-sharded")
_WEIGHTS: Final = ("model", "pytorch_model")  # how the names of the files begin that `from_pretrained` looks for
_WITH_HEAD: Final = ("ForCausalLM", "LMHeadModel")


def why_not(task: LoadTask) -> str | None:
    """In one sentence why `from_pretrained` does not take a checkpoint; None when it does."""
    checkpoint = task.checkpoint
    if checkpoint.layout not in _LAYOUTS or "model_type" not in (checkpoint.config or {}):
        return "it takes a Hugging Face folder: weights beside a config.json that names a model_type"
    if not checkpoint.files[0].name.startswith(_WEIGHTS) or checkpoint.entry or checkpoint.mixed or checkpoint.prefix:
        return "from_pretrained takes model.safetensors or pytorch_model.bin, whole or in shards with their index"
    if task.options.trust_pickle:
        return "from_pretrained reads pickles with weights_only=True: leave --trust-pickle out"
    named = _named_dtype(task)
    if named not in ("", *CASTABLE):
        return f"its config names the dtype {shown(named)}, in which torch builds no model: name another there"
    if task.options.model is not None:
        return "the model is transformers' own: leave --model out"
    return None


def why_not_built(task: LoadTask) -> str | None:
    """The same of a model that is built from its config before the checkpoint is looked at."""
    form = task.checkpoint.quantisation
    if form is not None:
        return f"its weights are quantised ({shown(form)}), and it builds plain layers: hf-pretrained builds theirs"
    return why_not(task)


def folder_path(task: LoadTask) -> Path:
    """The checkpoint's folder."""
    path = task.checkpoint.path
    return path if path.is_dir() else path.parent


def folder(task: LoadTask) -> str:
    """The same as a literal: what a user hands to `from_pretrained`."""
    return repr(str(folder_path(task)))


def auto_class(task: LoadTask) -> str:
    """The class whose `from_pretrained` loads the model: the one with a head where the config says so."""
    name = transformers_class(task.checkpoint.config)
    return "AutoModelForCausalLM" if name.endswith(_WITH_HEAD) else name or "AutoModel"


def imports(task: LoadTask, *more: str) -> str:
    """The recipe's first lines."""
    return "\n".join(["import torch", f"from transformers import {', '.join([*more, auto_class(task)])}"])


def _named_dtype(task: LoadTask) -> str:
    """What the config has for a dtype, which may be anything; empty where it has nothing."""
    config = task.checkpoint.config or {}
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def config_dtype(task: LoadTask) -> str:
    """The dtype that the config names; empty where it names none that a model can have."""
    named = _named_dtype(task)
    return named if named in CASTABLE else ""


def dtype_argument(task: LoadTask) -> str:
    """What `from_pretrained` is told of the dtype; "auto" is the config's, else the checkpoint's own."""
    stored = task.options.dtype is None and task.main_dtype in task.checkpoint.dtypes
    automatic = config_dtype(task) == task.main_dtype or (not config_dtype(task) and stored)
    return 'dtype="auto"' if automatic else f"dtype=torch.{task.main_dtype}"


def as_loaded(task: LoadTask) -> LoadTask:
    """The task with the one dtype that every floating tensor of the model gets."""
    return dataclasses.replace(task, options=dataclasses.replace(task.options, dtype=task.main_dtype))


def built(task: LoadTask, config: str) -> str:
    """The expression that builds the model from its config; only an Auto class takes over the config's dtype."""
    name = auto_class(task)
    return f"{name}.from_config({config})" if name.startswith("Auto") else f"{name}({config})"


def built_dtype(task: LoadTask) -> str:
    """The dtype in which `built` builds the model."""
    return (config_dtype(task) or "float32") if auto_class(task).startswith("Auto") else "float32"


def mapped_sources(task: LoadTask) -> Sources:
    """What transformers brings in: mappings; files that torch cannot map are read."""
    mappable = not any(file.unmappable for file in task.checkpoint.files)
    pool, remade = (Pool.FILE if mappable else Pool.HEAP), task.casts or task.pool is not Pool.HEAP
    return Sources(pool, Item.STAGING if remade else Item.FLOOR)


def by_name(task: LoadTask) -> list[StoredTensor]:
    """The model's tensors as transformers takes them: layer 10 comes after layer 9 (`dot_natural_key`)."""

    def key(tensor: StoredTensor) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in tensor.name.split(".")]

    return sorted((tensor for tensor in task.checkpoint.tensors if tensor.name in task.parameters), key=key)


def allocator_warmup(task: LoadTask, nbytes: int) -> Iterator[Step]:
    """What a device_map asks of torch's allocator at first, and gives back at once (`caching_allocator_warmup`).

    The model's tensors are then cut from this one piece, without the rounding that each would have by itself.

    Args:
        task: what to load.
        nbytes: what will be on the device.
    """
    if kind_of(task.options.device) in ("cuda", "xpu"):
        piece = Step("read", Operation.MATERIALISE, Pool.VRAM, Item.STAGING, "allocator warm-up", nbytes)
        yield from (piece, piece.given_back("read"))


def has_head(task: LoadTask) -> bool:
    """Whether the files hold an output head of their own: one that is tied to the embedding is not in them."""
    return any(tensor.name.endswith("lm_head.weight") for tensor in task.checkpoint.tensors)
