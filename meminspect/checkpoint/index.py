"""Several files and the index that says which tensor lies where.

Format: `save_torch_state_dict` of huggingface_hub (serialization/_torch.py) and `save_pretrained` of transformers write
`{"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}` as `STEM.SUFFIX.index.json`.
"""

from __future__ import annotations

from itertools import repeat
from operator import attrgetter, eq
from typing import TYPE_CHECKING

from meminspect.checkpoint.assembling import assembled
from meminspect.checkpoint.folders import file_names, member, read_config, still_there
from meminspect.checkpoint.plain_index import parse_index
from meminspect.checkpoint.reading import refusal
from meminspect.checkpoint.strict_json import read_object
from meminspect.text import listed, shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meminspect.checkpoint.model import Checkpoint, StoredTensor
    from meminspect.checkpoint.reading import Part

__all__ = ["INDEX", "indices", "read_indexed"]

INDEX = ".index.json"
MAX_INDEX_BYTES = 100_000_000  # as much as a safetensors header: a million names; the largest models' have 10 MB
_AGAIN = "fetch the index and the shards again, of one revision"


def indices(path: Path, conventional: str) -> tuple[str, ...]:
    """The indices of one kind that a path is or holds, the conventional one alone where it is there."""
    ending = conventional[conventional.index(".") :]
    if path.is_file():
        return (path.name,) if path.name.endswith(ending) else ()
    names = tuple(name for name in file_names(path) if name.endswith(ending))
    return (conventional,) if conventional in names else names


def read_indexed(path: Path, layout: str, conventional: str, read_part: Callable[[Path, str, int], Part]) -> Checkpoint:
    """Read an index and its shards.

    Args:
        path: the index, or the folder that holds it.
        layout: the id of the layout.
        conventional: the name that the index usually has, as "model.safetensors.index.json".
        read_part: reads a shard, given its path, its name and its place among the shards.

    Raises:
        CheckpointError: a shard is missing, damaged or not what the index says.
    """
    folder, index = (
        (path.parent, path) if path.is_file() else (path, member(path, still_there(path, indices(path, conventional))))
    )
    weight_map, total_bytes = _read_index(index)
    shards = _check_shards(folder, index, sorted(set(weight_map.values())))
    parts = [read_part(shard, shard.name, place) for place, shard in enumerate(shards)]
    unlisted = _check_placement(index, weight_map, parts)
    config, warnings = read_config(folder, ("config.json",))
    suffix = conventional.removesuffix(INDEX).partition(".")[2]
    return assembled(
        path,
        layout,
        parts,
        config,
        (
            *warnings,
            *_warn_unlisted(unlisted),
            *_warn_size(parts, total_bytes),
            *_warn_files(folder, f".{suffix}", {part.file.name for part in parts}),
        ),
    )


def _read_index(index: Path) -> tuple[dict[str, str], object]:
    content = read_object(index, MAX_INDEX_BYTES, parse_index)
    weight_map, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal(index, "is not an index: it has no weight_map", _AGAIN)
    # Of a million places there are few kinds and few different ones.
    if set(map(type, weight_map.values())) != {str} or not all(map(_is_plain, set(weight_map.values()))):
        name, shard = next(place for place in weight_map.items() if not _is_plain(place[1]))
        raise refusal(
            index,
            f"places '{shown(name)}' in {_in_words(shard)}, which is not the name of a file beside it",
            "do not use a checkpoint that points elsewhere",
        )
    return weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None


def _in_words(shard: object) -> str:
    return f"'{shown(shard)}'" if isinstance(shard, str) else f"a {type(shard).__name__}"


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\")


def _check_shards(folder: Path, index: Path, names: Sequence[str]) -> list[Path]:
    paths = [member(folder, name) for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise refusal(
            index,
            f"{len(missing):,} of {len(names):,} shards {verb} missing: {listed(missing)}",
            "finish the download",
        )
    return paths


def _check_placement(index: Path, weight_map: dict[str, str], parts: list[Part]) -> list[StoredTensor]:
    """Compare the index with the shards; return the tensors that the index does not list."""
    if _agree(weight_map, parts):  # as almost all do: what follows is for the words
        return []
    holders: dict[str, str] = {}
    for part in parts:
        for tensor in part.tensors:
            earlier = holders.setdefault(tensor.name, part.file.name)
            if earlier != part.file.name:
                where = f"{shown(earlier)} and in {shown(part.file.name)}"
                raise refusal(index, f"the tensor '{shown(tensor.name)}' stands in {where}", _AGAIN)
    for name, shard in weight_map.items():
        if holders.get(name) != shard:
            where = f"it is in {shown(holders[name])}" if name in holders else "no shard has it"
            raise refusal(index, f"places '{shown(name)}' in {shown(shard)}, but {where}", _AGAIN)
    return [tensor for part in parts for tensor in part.tensors if tensor.name not in weight_map]


def _agree(weight_map: dict[str, str], parts: list[Part]) -> bool:
    """Whether each tensor is listed, in the file that holds it, and no other one."""
    return sum(len(part.tensors) for part in parts) == len(weight_map) and all(
        all(map(eq, map(weight_map.get, map(attrgetter("name"), part.tensors)), repeat(part.file.name)))
        for part in parts
    )


def _warn_unlisted(tensors: list[StoredTensor]) -> list[str]:
    if not tensors:
        return []
    return [f"{len(tensors):,} tensors are in the shards but not in the index: {listed(t.name for t in tensors)}"]


def _warn_size(parts: list[Part], promised: object) -> list[str]:
    tensors = [tensor for part in parts for tensor in part.tensors]
    if not isinstance(promised, (int, float)) or promised == sum(tensor.storage.nbytes for tensor in tensors):
        return []
    nbytes = sum(storage.nbytes for storage in {tensor.storage for tensor in tensors})
    # Writers differ in whether they count a tied tensor once.
    if promised in (nbytes, sum(tensor.nbytes for tensor in tensors)):
        return []
    return [f"the index says {format_bytes(promised)} of tensors ({promised:,}), the shards hold {nbytes:,} bytes"]


def _warn_files(folder: Path, suffix: str, read: set[str]) -> list[str]:
    others = [name for name in file_names(folder) if name.endswith(suffix) and name not in read]
    return [f"not read, since the index does not list them: {listed(others)}"] if others else []
