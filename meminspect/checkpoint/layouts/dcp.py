"""Layout `dcp`: a folder of torch.distributed.checkpoint, `.metadata` and the `*.distcp` files that it points into.

Format: torch/distributed/checkpoint/filesystem.py (`_write_item`: each chunk of a tensor is what `torch.save` makes of
it, at an offset of a file) and planner_helpers.py; default_planner.py for `planner_data`, the path of each flat name.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meminspect.checkpoint.dcp_metadata import Item, read_items
from meminspect.checkpoint.folders import file_names, member, read_config
from meminspect.checkpoint.layouts.base import Layout
from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Chunk
from meminspect.checkpoint.reading import open_header, refusal
from meminspect.checkpoint.torch_file import read_torch_tensor
from meminspect.text import listed, shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.checkpoint.reading import HeaderFile

__all__ = ["LAYOUT"]

METADATA = ".metadata"
_SUFFIX = ".distcp"
_CONFIGS = "config.json", "params.json"
_MODELS = "model", "state_dict", "module", "model_state_dict"  # what training loops call the model among other things
_AGAIN = "fetch the folder again"


def _claims(path: Path) -> tuple[str, ...]:
    if path.is_file():
        return (path.name,) if path.name == METADATA or path.suffix == _SUFFIX else ()
    names = file_names(path)
    found = [name for name in names if name == METADATA or name.endswith(_SUFFIX)]
    return tuple(found[:1])


def _read(path: Path) -> Checkpoint:
    """Read the whole checkpoint, also where one of its files is named: a file by itself has no names."""
    folder = path if path.is_dir() else path.parent
    if METADATA not in file_names(folder):
        raise refusal(
            folder, f"holds *{_SUFFIX} but no {METADATA}, which says what is in them", "finish the save or copy"
        )
    items = read_items(member(folder, METADATA))
    prefix, own, others = _model_of(items)
    warnings = _ignored(others)
    files, tensors = _read_files(folder, own, prefix)
    if not tensors:
        raise refusal(folder, "holds no tensors", "name the folder of a model's checkpoint")
    _check_whole(folder, tensors)
    config, more = read_config(folder, _CONFIGS)
    return Checkpoint(
        path, LAYOUT.id, files, tensors, config, warnings=(*warnings, *more), prefix=".".join((*prefix, ""))
    )


def _model_of(items: Sequence[Item]) -> tuple[tuple[str, ...], list[Item], list[Item]]:
    """The path below which the model lies, its items, and all others."""
    below: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in items:
        place = next((at for at, part in enumerate(item.path[:-1]) if part in _MODELS), None)
        if item.dtype is not None and place is not None and item.has_plain_path:
            below[item.path[: place + 1]].append(item)
    prefix = max(below, key=lambda path: sum(item.nbytes for item in below[path]), default=())
    chosen = {id(item) for item in below[prefix]} if prefix else {id(item) for item in items if item.dtype is not None}
    return prefix, [i for i in items if id(i) in chosen], [i for i in items if id(i) not in chosen]


def _ignored(others: Sequence[Item]) -> tuple[str, ...]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item in others:
        entry = sums[item.path[0] if len(item.path) > 1 else item.name]
        entry[0] += 1
        entry[1] += item.length
    if not sums:
        return ()
    words = (
        f"{shown(name)} ({count:,} {'entry' if count == 1 else 'entries'}, {format_bytes(nbytes)})"
        for name, (count, nbytes) in sorted(sums.items(), key=lambda entry: -entry[1][1])
    )
    return (f"not read, since it is beside the model: {listed(words)}",)


def _read_files(
    folder: Path, items: Sequence[Item], prefix: tuple[str, ...]
) -> tuple[tuple[CheckpointFile, ...], tuple[StoredTensor, ...]]:
    by_file: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_file[item.file].append(item)
    files: list[CheckpointFile] = []
    tensors: list[StoredTensor] = []
    start = len(".".join((*prefix, "")))
    for name in sorted(by_file):
        path = member(folder, name)
        with open_header(path) as file:
            found = [
                _read_item(file, item, item.name[start:], len(files))
                for item in sorted(by_file[name], key=lambda item: item.offset)
            ]
            files.append(CheckpointFile(name, path, file.nbytes))
        tensors += found
    return tuple(files), tuple(tensors)


def _read_item(file: HeaderFile, item: Item, name: str, index: int) -> StoredTensor:
    tensor = read_torch_tensor(file.part(item.offset, item.length), name, index)
    if (tensor.shape, tensor.dtype) != (item.sizes, item.dtype):
        raise file.refuse(
            f"holds '{shown(name)}' as {tensor.dtype} {list(tensor.shape)}, and {METADATA} says {item.dtype} "
            f"{list(item.sizes)}",
            _AGAIN,
        )
    storage = tensor.storage._replace(offset=tensor.storage.offset + item.offset, key=str(item.offset))
    chunk = None if item.sizes == item.whole else Chunk(item.whole, item.start)
    return tensor._replace(storage=storage, chunk=chunk)


def _check_whole(folder: Path, tensors: Sequence[StoredTensor]) -> None:
    elements: dict[str, list[int]] = {}
    for tensor in tensors:
        entry = elements.setdefault(tensor.name, [tensor.whole_elements, 0])
        entry[1] += tensor.elements
    for name, (whole, found) in elements.items():
        if whole != found:
            raise refusal(folder, f"holds {found:,} of the {whole:,} elements of the tensor '{shown(name)}'", _AGAIN)


LAYOUT = Layout(
    "dcp",
    "a folder of torch.distributed.checkpoint: .metadata and *.distcp, tensors whole or in chunks",
    _claims,
    _read,
)
