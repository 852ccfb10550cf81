"""`lazy-quantize`: what will be quantised is never there in full precision, but for one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import materialising, quantisation, recipes
from meminspect.strategies.sources import Sources
from meminspect.strategies.steps import read as read_files
from meminspect.strategies.strategy import Strategy
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meminspect.architectures.model import Parameter
    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["STRATEGY"]

# What is read and quantised comes and goes between what stays: glibc would keep the holes.
_GIVE_BACK = """
allocator = ctypes.CDLL(None)
if hasattr(allocator, "mallopt"):  # glibc: what is freed goes back to the system at once, whatever its size
    allocator.mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD, which is raised by each free unless it is set
"""


def _recipe(task: LoadTask) -> str:
    return recipes.recipe(
        recipes.header(task, "from torch import nn", "import ctypes", lazily=True),
        _GIVE_BACK,
        quantisation.layer_class(task),
        recipes.meta_build(task),
        f"""
for name, module in list(model.named_modules()):
    if {quantisation.which(task)}:
        model.set_submodule(name, QuantisedLinear(module))
""",
        materialising.put(task, owned=recipes.is_safetensors(task)),
        """
tensors = model.state_dict(keep_vars=True)
layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, QuantisedLinear)}
""",
        _read(task),
        materialising.lacking(task),
    )


def _read(task: LoadTask) -> str:
    """Read each tensor when its turn comes, and quantise or keep it."""
    if task.checkpoint.parallel_files:
        return f"""
shards = [{recipes.read_one(task, mapped=True)} for file in files]
for name in list(shards[0]):
    pieces = [shard.pop(name) for shard in shards]
    if name in layers:
        layers[name].quantise({_on_device(task, "torch.cat(pieces, split_dims[name])")})
    elif split_dims[name] is None:
        put(tensors[name], {materialising.final(task, "pieces[0]")})
    else:
        put(tensors[name], {materialising.final(task, "torch.cat(pieces, split_dims[name])", owned=True)})
del shards, pieces
"""
    owned = recipes.is_safetensors(task)
    each = f"""
if name in layers:
    layers[name].quantise({quantisation.as_rows(task, _on_device(task, "stored"))})
elif tensors[name].is_meta:  # tied names are one tensor, which is there after the first
    put(tensors[name], {materialising.final(task, "stored", owned=owned)})
"""
    if owned:
        return f"""
for file in files:
    with safe_open(file, framework="pt", backend="pread") as shard:  # no page of the file is mapped
        {recipes.stored_one_by_one(task)}{materialising.indented(each, 12)}
            del stored  # before the next one is read
"""
    return f"""
for file in files:
    shard = {recipes.read_one(task, mapped=True)}
    for name, stored in shard.items():{materialising.indented(each, 8)}
    shard = stored = None  # and the file's pages go
"""


def _on_device(task: LoadTask, tensor: str) -> str:
    return f"{tensor}.to({task.options.device!r})" if task.pool is Pool.VRAM else tensor


def _ledger(task: LoadTask) -> Iterator[Step]:
    layers, done = quantisation.quantised(task), set[str]()
    if task.checkpoint.parallel_files:
        yield from _joined(task, layers)
    elif recipes.is_safetensors(task):
        for tensor in task.checkpoint.tensors:
            yield from _read_alone(task, tensor, done, quantised=tensor.name in layers)
    else:
        for file in range(len(task.checkpoint.files)):
            yield from _mapped(task, file, layers, done)


def _read_alone(task: LoadTask, tensor: StoredTensor, done: set[str], *, quantised: bool) -> Iterator[Step]:
    """A tensor that is read into memory of its own, and dropped unless the model keeps it as it is."""
    parameter = task.parameters[tensor.name]
    changes = quantised or task.pool is Pool.VRAM or task.cast_dtype(tensor.dtype) != tensor.dtype
    keeps = not changes and _is_first(parameter, done)
    item = Item.FLOOR if keeps else Item.STAGING
    read = Step("read", Operation.MATERIALISE, Pool.HEAP, item, tensor.name, tensor.nbytes)
    yield read
    phase = "read"
    if quantised:
        steps = _quantised(task, parameter, tensor.name, tensor.dtype)
    elif _is_first(parameter, done):
        steps = materialising.made(task, tensor.name, tensor.dtype, tensor.elements, owned=True)
    else:
        steps = iter(())
    done.add(parameter.tied_to or parameter.name)
    for step in steps:
        yield step
        phase = step.phase
    if not keeps:
        yield read._replace(phase=phase, operation=Operation.RELEASE)


def _is_first(parameter: Parameter, done: set[str]) -> bool:
    """Whether no name that is tied to it has been met."""
    return (parameter.tied_to or parameter.name) not in done


def _mapped(task: LoadTask, file: int, layers: Mapping[str, Parameter], done: set[str]) -> Iterator[Step]:
    """One mapped file, whose pages go when it is done."""
    sources, phase, tensors = Sources(Pool.FILE, Item.STAGING), "read", task.tensors_by_file[file]
    yield from read_files(task, sources, [file])
    for tensor in tensors:
        parameter, name = task.parameters[tensor.name], sources.name_of(tensor)
        if tensor.name in layers:
            yield from sources.use("move" if task.pool is Pool.VRAM else "quantise", tensor)
            steps = _quantised(task, parameter, name, tensor.dtype)
        elif _is_first(parameter, done):
            yield from sources.use(materialising.first_phase(task, tensor.dtype), tensor)
            steps = materialising.made(task, name, tensor.dtype, tensor.elements)
        else:
            continue
        done.add(parameter.tied_to or parameter.name)
        for step in steps:
            yield step
            phase = step.phase
    for tensor in tensors:
        yield from sources.drop(phase, tensor)


def _joined(task: LoadTask, layers: Mapping[str, Parameter]) -> Iterator[Step]:
    """Model-parallel files, all mapped until the last tensor is whole."""
    sources, phase = Sources(Pool.FILE, Item.STAGING), "read"
    yield from read_files(task, sources)
    for name, pieces in task.pieces.items():
        split, dtype = task.split_dims[name] is not None, pieces[0].dtype
        pieces = pieces if split else pieces[:1]
        elements = sum(piece.elements for piece in pieces)
        for piece in pieces:
            yield from sources.use("merge" if split else materialising.first_phase(task, dtype), piece)
        if name in layers:
            steps = _quantised(task, layers[name], name, dtype, joined=True)
        else:
            steps = materialising.made(task, name, dtype, elements, joined=split)
        for step in steps:
            yield step
            phase = step.phase
    for tensor in task.checkpoint.tensors:
        yield from sources.drop(phase, tensor)


def _quantised(task: LoadTask, parameter: Parameter, name: str, dtype: str, *, joined: bool = False) -> Iterator[Step]:
    """A weight is quantised where the model shall be; what it is joined or moved to goes."""
    nbytes, before = bytes_of(dtype, parameter.elements), list[Step]()
    if joined:
        before.append(Step("merge", Operation.MATERIALISE, Pool.HEAP, Item.STAGING, name, nbytes))
        yield before[-1]
    if task.pool is Pool.VRAM:
        before.append(Step("move", Operation.MATERIALISE, task.pool, Item.STAGING, name, nbytes))
        yield before[-1]
        if joined:
            yield before.pop(0)._replace(phase="move", operation=Operation.RELEASE)
    yield from quantisation.steps(task, parameter, dtype, name)
    for step in before:
        yield step._replace(phase=quantisation.last_phase(task, dtype), operation=Operation.RELEASE)


STRATEGY = Strategy(
    id="lazy-quantize",
    summary="replaces the linear layers on meta, then reads and quantises tensor by tensor",
    good="models that fit only when quantised; the weights are never there in full precision",
    bad="quantises again at each load, which takes longer than reading",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda task: not recipes.is_safetensors(task),
    quantises=True,
    lacks=quantisation.why_not,
)
