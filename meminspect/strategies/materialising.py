"""Lazy initialisation: a model on meta whose tensors are made one by one, each once and in its final form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import recipes, steps
from meminspect.strategies.sources import Sources
from meminspect.theory.ledger import Item, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = ["final", "first_phase", "indented", "initialised", "lacking", "made", "one_by_one", "put", "read_one_by_one"]


def put(task: LoadTask, *, owned: bool = False) -> str:
    """`put`, by which a tensor of the model on meta becomes a real one, and `final`, where there is a cast.

    Args:
        task: what to load.
        owned: what is cast has memory of its own already.
    """
    text = """
def put(old, new):  # wherever the model uses it: tied weights stay tied
    if isinstance(old, torch.nn.Parameter):
        new = torch.nn.Parameter(new, old.requires_grad)
    torch.utils.swap_tensors(old, new)
"""
    if not task.casts:
        return text
    # Without a copy a tensor that has the dtype already would remain a view of the file.
    copy = "" if owned or task.pool is Pool.VRAM else ", copy=True"
    return f"""
def final(stored):
    dtype = torch.{task.options.dtype} if stored.is_floating_point() else stored.dtype
    return stored.to(dtype{copy})
{text}"""


def read_one_by_one(task: LoadTask) -> str:
    """Read each tensor when its turn comes; a file's pages go when it is done."""
    names = "tensors = model.state_dict(keep_vars=True)"
    if task.checkpoint.parallel_files:
        return f"""{names}
shards = [{recipes.read_one(task, mapped=True)} for file in files]
for name in list(shards[0]):
    pieces = [shard.pop(name) for shard in shards]
    if split_dims[name] is None:
        put(tensors[name], {final(task, "pieces[0]")})
    else:
        put(tensors[name], {final(task, "torch.cat(pieces, split_dims[name])", owned=True)})
del shards, pieces
"""
    each = f"""
if tensors[name].is_meta:  # tied names are one tensor, which is there after the first
    put(tensors[name], {final(task, "stored")})
"""
    if recipes.is_safetensors(task):
        return f"""{names}
for file in files:
    with safe_open(file, framework="pt") as shard:
        {recipes.stored_one_by_one(task)}{indented(each, 12)}
    stored = None  # and the file's pages go
"""
    return f"""{names}
for file in files:
    shard = {recipes.read_one(task, mapped=True)}
    for name, stored in shard.items():{indented(each, 8)}
    shard = stored = None  # and the file's pages go
"""


def final(task: LoadTask, stored: str, *, owned: bool = False) -> str:
    """The expression that makes of a stored tensor what the model shall keep.

    Args:
        task: what to load.
        stored: an expression of it.
        owned: it has memory of its own already.
    """
    if task.pool is Pool.VRAM:
        moved = f"{stored}.to({task.options.device!r})"
        return f"final({moved})" if task.casts else moved
    if task.casts:
        return f"final({stored})"
    return stored if owned else f"{stored}.clone()"


def indented(text: str, spaces: int) -> str:
    """A block of a recipe as the body of another."""
    return "\n".join(f"{' ' * spaces}{line}" if line else line for line in text.rstrip().split("\n"))


def lacking(task: LoadTask) -> str:
    """Initialise what the checkpoint lacks as its module does, and say what is left on meta then."""
    return f"""
for module in model.modules():  # what the checkpoint lacks begins as its module makes it
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    lacking = [tensor for tensor in own if tensor.is_meta]
    if lacking and hasattr(module, "reset_parameters"):
        loaded = [(tensor, torch.empty_like(tensor, device="meta")) for tensor in own if not tensor.is_meta]
        for tensor in lacking:
            put(tensor, torch.empty_like(tensor, device={task.options.device!r}))
        for pair in loaded:  # not what is loaded already
            torch.utils.swap_tensors(*pair)
        module.reset_parameters()
        for pair in loaded:
            torch.utils.swap_tensors(*pair)

left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
if left:
    raise RuntimeError(f"left on the meta device: {{', '.join(left)}}")
"""


def one_by_one(task: LoadTask) -> Iterator[Step]:
    """The ledger of `read_one_by_one` and `lacking`, for a model that is built by `recipes.meta_build`."""
    yield from steps.build_unsaved(task)
    if task.checkpoint.parallel_files:
        yield from _joined(task)
    else:
        done: set[str] = set()
        for file in range(len(task.checkpoint.files)):
            yield from _file(task, file, done)
    of_the_model = [one for one in task.architecture.parameters if one.saved and one.tied_to is None]
    absent = [one for one in of_the_model if one.name not in task.pieces]
    yield from initialised(task, absent)


def initialised(task: LoadTask, parameters: Iterable[Parameter]) -> Iterator[Step]:
    """What the checkpoint lacks is given memory, and its module's values, in the dtype in which it is built."""
    for parameter in parameters:
        nbytes = bytes_of(parameter.dtype or "float32", parameter.elements)
        yield Step("build", Operation.MATERIALISE, task.pool, Item.FLOOR, parameter.name, nbytes)
        yield Step("build", Operation.ASSIGN, Pool.NONE, "", parameter.name, nbytes)


def _file(task: LoadTask, file: int, done: set[str]) -> Iterator[Step]:
    """One mapped file; names that are tied to one that is done take nothing."""
    sources, phase = Sources(Pool.FILE, Item.STAGING), "read"
    tensors, opened = task.tensors_by_file[file], recipes.is_safetensors(task)
    if not opened:
        yield from steps.read(task, sources, [file])
    for tensor in tensors:
        if opened:
            yield from sources.read([tensor], phase)
        parameter = task.parameters[tensor.name]
        owner = parameter.tied_to or parameter.name
        if owner in done:
            continue
        done.add(owner)
        yield from sources.use(first_phase(task, tensor.dtype), tensor)
        for step in made(task, sources.name_of(tensor), tensor.dtype, tensor.elements):
            yield step
            phase = step.phase if step.nbytes else phase  # nobody sees an empty tensor
    for tensor in tensors:
        yield from sources.drop(phase, tensor)


def _joined(task: LoadTask) -> Iterator[Step]:
    """Model-parallel files, all mapped until the last tensor is whole."""
    sources, phase = Sources(Pool.FILE, Item.STAGING), "read"
    yield from steps.read(task, sources)
    for name, pieces in task.pieces.items():
        split = task.split_dims[name] is not None
        dtype, elements = pieces[0].dtype, sum(piece.elements for piece in (pieces if split else pieces[:1]))
        for piece in pieces if split else pieces[:1]:
            yield from sources.use("merge" if split else first_phase(task, dtype), piece)
        for step in made(task, name, dtype, elements, joined=split):
            yield step
            phase = step.phase if step.nbytes else phase  # nobody sees an empty tensor
    for tensor in task.checkpoint.tensors:
        yield from sources.drop(phase, tensor)


def first_phase(task: LoadTask, stored: str) -> str:
    """The phase in which a stored tensor is looked at."""
    if task.pool is Pool.VRAM:
        return "move"
    return "copy" if task.cast_dtype(stored) == stored else "cast"


def made(
    task: LoadTask, name: str, stored: str, elements: int, *, joined: bool = False, owned: bool = False
) -> Iterator[Step]:
    """A tensor in the forms that it takes, each gone when the next is there; the last is the model's.

    Args:
        task: what to load.
        name: its name.
        stored: its dtype in the checkpoint.
        elements: how many it has.
        joined: it is joined of slices first.
        owned: it is there in memory of its own, which the model takes over as it is unless it is moved or cast.
    """
    dtype = task.cast_dtype(stored)
    forms = [("merge", Pool.HEAP, stored)] if joined else []
    if task.pool is Pool.VRAM:
        forms.append(("move", task.pool, stored))
    if dtype != stored:
        forms.append(("cast", task.pool, dtype))
    if owned and not forms:
        yield Step("read", Operation.ASSIGN, Pool.NONE, "", name, bytes_of(stored, elements))
        return
    forms = forms or [("copy", task.pool, stored)]
    before: Step | None = None
    for phase, pool, form in forms:
        item = Item.FLOOR if (phase, pool, form) == forms[-1] else Item.STAGING
        step = Step(phase, Operation.MATERIALISE, pool, item, name, bytes_of(form, elements))
        yield step
        if before is not None:
            yield before._replace(phase=phase, operation=Operation.RELEASE)
        before = step
    yield step._replace(operation=Operation.ASSIGN, pool=Pool.NONE, item="")
