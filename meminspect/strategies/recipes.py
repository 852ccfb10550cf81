"""The lines that recipes are put together from. What they produce is shown, pasted and executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from meminspect.sampling.interpreter import Interpreter
    from meminspect.strategies.task import LoadTask

__all__ = ["build", "cast", "header", "is_safetensors", "meta_build", "read_all", "read_one", "recipe", "unmet"]

_PATHS_MAPPED: Final = (2, 6)  # torch.load(mmap=True) has long taken nothing but a str

# What a recipe says, the package that it needs for it, and since when that has it.
_NEEDS: Final = (
    ("from safetensors", "safetensors", (0, 3), "to read safetensors files"),
    ('backend="pread"', "safetensors", (0, 8), 'to read them into memory of their own (backend="pread")'),
)


def is_safetensors(task: LoadTask) -> bool:
    """Whether the checkpoint's files are safetensors rather than pickles."""
    return task.checkpoint.layout.startswith("safetensors")


def recipe(*blocks: str) -> str:
    """Join blocks with an empty line between them."""
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def unmet(recipe: str, interpreter: Interpreter) -> str | None:
    """In one sentence what a recipe needs that the worker's environment lacks; None when all is there."""
    for words, package, oldest, purpose in _NEEDS:
        lack = interpreter.lacks(package, oldest) if words in recipe else None
        if lack is not None:
            return f"the environment of --python {lack}, and {'.'.join(map(str, oldest))} or newer is needed {purpose}"
    return None


def header(task: LoadTask) -> str:
    """Imports and the list of files."""
    lines = ["# Model and config stand for your model class and its configuration."]
    if task.checkpoint.parallel_files:
        lines.append("# split_dims says along which dimension each tensor is sliced (wq: 0, wo: 1, norms: None).")
    lines += ["import torch", "from pathlib import Path"]
    if is_safetensors(task):
        lines.append("from safetensors.torch import load_file")
    return "\n".join([*lines, "", _files(task)])


def build(task: LoadTask) -> str:
    """Build the model with random weights in the initial dtype."""
    lines = [f"model = Model(config).to({task.options.device!r})  # random numbers, soon overwritten"]
    if task.options.init_dtype != "float32":
        lines.insert(0, f"torch.set_default_dtype(torch.{task.options.init_dtype})")
    return "\n".join(lines)


def meta_build(_: LoadTask) -> str:
    """Build the model without memory."""
    return 'with torch.device("meta"):\n    model = Model(config)  # names and shapes, no memory'


def read_one(task: LoadTask, *, mapped: bool = False, owned: bool = False) -> str:
    """The expression that reads one file.

    Args:
        task: what to load.
        mapped: map a pickle's file instead of reading it.
        owned: read safetensors into memory of their own instead of mapping the file.
    """
    if is_safetensors(task):
        return 'load_file(file, backend="pread")' if owned else "load_file(file)"
    mmap = ", mmap=True" if mapped else ""
    text = mapped and task.options.interpreter.lacks("torch", _PATHS_MAPPED) is not None
    file, safe = "str(file)" if text else "file", not task.options.trust_pickle
    return f'torch.load({file}, map_location="cpu", weights_only={safe}{mmap})'


def read_all(task: LoadTask, expression: str) -> str:
    """Read every file into one state dict; model-parallel slices are joined one tensor at a time."""
    if not task.checkpoint.parallel_files:
        return f"state_dict = {{}}\nfor file in files:\n    state_dict |= {expression}"
    return f"""
shards = [{expression} for file in files]
state_dict = {{}}
for name in list(shards[0]):
    pieces = [shard.pop(name) for shard in shards]
    dim = split_dims[name]
    state_dict[name] = pieces[0] if dim is None else torch.cat(pieces, dim)
del shards, pieces
"""


def cast(task: LoadTask) -> str:
    """Cast tensor by tensor, each source dropped at once; empty when no cast is asked for or none would change."""
    if not task.casts:
        return ""
    return f"""
for name in state_dict:
    if state_dict[name].is_floating_point():
        state_dict[name] = state_dict[name].to(torch.{task.options.dtype})
"""


def _files(task: LoadTask) -> str:
    paths = [file.path for file in task.checkpoint.files]
    if len(paths) == 1:
        return f"files = [Path({str(paths[0])!r})]"
    folder = paths[0].parent
    names = [path.name for path in paths]
    prefix = _common_start(names)
    suffix = _common_start([name[::-1] for name in names])[::-1]
    pattern = f"{prefix}*{suffix}"
    if not set(pattern) & set("?[]") and sorted(folder.glob(pattern)) == paths:
        return f"files = sorted(Path({str(folder)!r}).glob({pattern!r}))"
    return f"folder = Path({str(folder)!r})\nfiles = [folder / name for name in {names!r}]"


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    same = next((index for index, letter in enumerate(first) if last[index : index + 1] != letter), len(first))
    return first[:same]
