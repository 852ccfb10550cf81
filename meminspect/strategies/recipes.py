"""The lines that recipes are put together from. What they produce is shown, pasted and executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.strategies.own_readers import GGUF

if TYPE_CHECKING:
    from meminspect.sampling.interpreter import Interpreter
    from meminspect.strategies.task import LoadTask

__all__ = [
    "ON_META",
    "always_maps",
    "bare",
    "build",
    "convert",
    "empty_build",
    "header",
    "is_safetensors",
    "load_all",
    "meta_build",
    "read_all",
    "read_one",
    "recipe",
    "stand_ins",
    "stored_one_by_one",
    "torch_load",
    "unmet",
]

ON_META: Final = 'with torch.device("meta"):'
"""How every recipe begins that builds the model without memory."""

_PATHS_MAPPED: Final = (2, 6)  # torch.load(mmap=True) has long taken nothing but a str

# What a recipe says, the package that it needs for it, and since when that has it.
_NEEDS: Final = (
    ("from safetensors", "safetensors", (0, 3), "to read safetensors files"),
    ("offset_keys", "safetensors", (0, 6), "to read tensors in the order of their bytes (offset_keys)"),
    ("swap_tensors", "torch", (2, 3), "to put a tensor in a parameter's place (swap_tensors)"),
    ('backend="pread"', "safetensors", (0, 8), 'to read them into memory of their own (backend="pread")'),
)

# numpy has no bfloat16: the package hands out its bytes.
_GGUF_LINES = """

def tensor_of(stored):
    tensor = torch.from_numpy(stored.data)  # of the mapped file
    is_bfloat16 = stored.tensor_type == gguf.GGMLQuantizationType.BF16
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor

""".splitlines()


_SAVED_TO_META = """for tensor in model.state_dict(keep_vars=True).values():
    if not tensor.is_meta:  # a buffer that the checkpoint does hold
        torch.utils.swap_tensors(tensor, tensor.to("meta"))
"""


def is_safetensors(task: LoadTask) -> bool:
    """Whether the checkpoint's files are safetensors rather than pickles."""
    return task.checkpoint.layout.startswith("safetensors")


def always_maps(task: LoadTask) -> bool:
    """Whether the library that reads these files maps them unless told otherwise."""
    return is_safetensors(task) or task.checkpoint.layout == GGUF


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


def header(task: LoadTask, *imports: str, lazily: bool = False) -> str:
    """Imports and the list of files.

    Args:
        task: what to load.
        imports: lines beside the usual ones.
        lazily: the files are opened, and their tensors read one by one.
    """
    lines = [stand_ins(task)]
    if task.checkpoint.parallel_files:
        lines.append("# split_dims says along which dimension each tensor is sliced (wq: 0, wo: 1, norms: None).")
    lines += ["import torch", "from pathlib import Path"]
    if is_safetensors(task):
        lines.append("from safetensors import safe_open" if lazily else "from safetensors.torch import load_file")
    lines += imports
    if task.checkpoint.layout == GGUF:
        lines += ["import gguf", *_GGUF_LINES]
    return "\n".join([*lines, "", _files(task)])


def stand_ins(task: LoadTask) -> str:
    """What a recipe's names stand for."""
    own = task.options.model
    if own is None:
        return "# Model and config stand for your model class and its configuration."
    whose = "; config is the checkpoint's own" if own.takes_config else ""
    return f"# Model(config) stands for {own.call}{whose}."


def build(task: LoadTask, *, in_place: bool = False) -> str:
    """Build the model with random weights in the initial dtype.

    Args:
        task: what to load.
        in_place: build on the task's device at once, rather than on the host and then move.
    """
    device, remark = task.options.device, "# random numbers, soon overwritten"
    if in_place:
        return f"{_dtype(task)}with torch.device({device!r}):\n    model = Model(config)  {remark}"
    return f"{_dtype(task)}model = Model(config).to({device!r})  {remark}"


def meta_build(task: LoadTask) -> str:
    """Build the model without memory; but where no state dict holds some buffer, its constructor gives that values."""
    if not task.unsaved:
        return _build_on_meta()
    on_device = "" if task.options.device == "cpu" else f"with torch.device({task.options.device!r}):\n    "
    saved = any(parameter.buffer and parameter.saved for parameter in task.architecture.parameters)
    return f"""
def to_meta(module, name, tensor):  # each parameter as soon as it is there; nobody has written to its memory yet
    return tensor if tensor.is_meta else torch.nn.Parameter(tensor.to("meta"), tensor.requires_grad)

hook = torch.nn.modules.module.register_module_parameter_registration_hook(to_meta)
{on_device}model = Model(config)  # names and shapes, and the buffers that no checkpoint holds
hook.remove()
{_SAVED_TO_META if saved else ""}"""


def _build_on_meta() -> str:
    return f"{ON_META}\n    model = Model(config)  # names and shapes, no memory"


def empty_build(task: LoadTask) -> str:
    """Build the model in the initial dtype with memory, but no values."""
    fill = f"model = model.to_empty(device={task.options.device!r})  # memory, with whatever is in it"
    return f"{_dtype(task)}{_build_on_meta()}\n{fill}"


def _dtype(task: LoadTask) -> str:
    built = task.options.init_dtype
    return "" if built == "float32" else f"torch.set_default_dtype(torch.{built})\n"


def read_one(task: LoadTask, *, mapped: bool = False, owned: bool = False, to_device: bool = False) -> str:
    """The expression that reads one file.

    Args:
        task: what to load.
        mapped: map a pickle's file instead of reading it.
        owned: read safetensors into memory of their own instead of mapping the file.
        to_device: read to the task's device rather than to the host.
    """
    device = task.options.device if to_device else "cpu"
    if is_safetensors(task):
        more = ', backend="pread"' if owned else "" if device == "cpu" else f", device={device!r}"
        return _state_dict_of(task, f"load_file(file{more})")
    if task.checkpoint.layout == GGUF:
        return f'{{{bare(task, "stored.name")}: tensor_of(stored) for stored in gguf.GGUFReader(file, "c").tensors}}'
    loaded = torch_load(task, device=device, mapped=mapped) + "".join(f"[{key!r}]" for key in task.checkpoint.entry)
    if task.checkpoint.layout == "per-tensor":
        return f"{{{bare(task, 'file.stem')}: {loaded}}}"
    return _state_dict_of(task, loaded)


def _state_dict_of(task: LoadTask, loaded: str) -> str:
    """The expression for the tensors alone of what is loaded, under the model's names."""
    if not task.checkpoint.prefix and not task.checkpoint.mixed:
        return loaded
    which = " if isinstance(value, torch.Tensor)" if task.checkpoint.mixed else ""
    return f"{{{bare(task, 'name')}: value for name, value in {loaded}.items(){which}}}"


def bare(task: LoadTask, name: str) -> str:
    """The expression for a tensor's name in the model, by that for its name on disk."""
    prefix = task.checkpoint.prefix
    return f"{name}.removeprefix({prefix!r})" if prefix else name


def stored_one_by_one(task: LoadTask) -> str:
    """The head of a loop over an open safetensors file, with `name` and `stored`; its body is indented by 12."""
    if not task.checkpoint.prefix:
        return """for name in shard.offset_keys():
            stored = shard.get_tensor(name)"""
    return f"""for key in shard.offset_keys():
            name, stored = {bare(task, "key")}, shard.get_tensor(key)"""


def torch_load(task: LoadTask, *, device: str = "cpu", mapped: bool = False) -> str:
    """The call that reads one file of torch.save, whatever is in it."""
    mmap = ", mmap=True" if mapped else ""
    text = mapped and task.options.interpreter.lacks("torch", _PATHS_MAPPED) is not None
    file, safe = "str(file)" if text else "file", not task.options.trust_pickle
    return f'torch.load({file}, map_location="{device}", weights_only={safe}{mmap})'


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


def load_all(task: LoadTask, *, to_device: bool) -> str:
    """Read the whole state dict, copy it into the model and drop it."""
    read = read_all(task, read_one(task, to_device=to_device))
    return f"{read.strip()}\n\nmodel.load_state_dict(state_dict)\ndel state_dict"


def convert(task: LoadTask) -> str:
    """Move and cast tensor by tensor, each source dropped at once; empty when neither would change anything."""
    lines = []
    if task.options.device != "cpu":
        lines.append(f"    state_dict[name] = state_dict[name].to({task.options.device!r})")
    if task.casts:
        lines.append("    if state_dict[name].is_floating_point():")
        lines.append(f"        state_dict[name] = state_dict[name].to(torch.{task.options.dtype})")
    return "\n".join(["for name in state_dict:", *lines]) if lines else ""


def _files(task: LoadTask) -> str:
    paths = [file.path for file in task.checkpoint.files]
    if len(paths) == 1:
        return f"files = [Path({str(paths[0])!r})]"
    folder = paths[0].parent
    names = [path.name for path in paths]
    prefix = _common_start(names)
    suffix = _common_start([name[::-1] for name in names])[::-1]
    pattern = f"{prefix}*{suffix}"
    imagined = not folder.exists()
    if not set(pattern) & set("?[]") and (imagined or sorted(folder.glob(pattern)) == paths):
        return f"files = sorted(Path({str(folder)!r}).glob({pattern!r}))"
    return f"folder = Path({str(folder)!r})\nfiles = [folder / name for name in {names!r}]"


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    same = next((index for index, letter in enumerate(first) if last[index : index + 1] != letter), len(first))
    return first[:same]
