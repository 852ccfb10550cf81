"""A file of `torch.save` in either of its formats: the state dict, what lies beside it, and what is odd about it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from meminspect.checkpoint.foreign import recognise
from meminspect.checkpoint.model import CheckpointFile, StoredTensor
from meminspect.checkpoint.reading import HeaderFile, Part, open_header
from meminspect.checkpoint.torch_archive import ZIP_MAGIC, TorchArchive
from meminspect.checkpoint.torch_globals import OddTensor, PickledTensor, Unknown, describe
from meminspect.checkpoint.torch_legacy import LEGACY_MAGIC, LegacyFile
from meminspect.checkpoint.torch_object import StateDict, paths_of_storages, state_dict_of
from meminspect.dtypes import BITS
from meminspect.text import listed, shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.checkpoint.model import Storage
    from meminspect.checkpoint.torch_globals import StorageRef
    from meminspect.checkpoint.torch_pickle import Pickled

__all__ = ["looks_like_torch", "read_torch_file", "read_torch_tensor"]

_BYTE = 8
_AGAIN = "fetch the file again"
_UNWRAP = "take its weights out where its classes can be imported (this runs its code): torch.save({}, 'weights.pth')"


class _Container(Protocol):
    """What both formats offer."""

    file: HeaderFile
    pickled: Pickled
    unmappable: str
    big_endian: bool

    @property
    def spare_bytes(self) -> int: ...

    def storage(self, name: str, ref: StorageRef) -> Storage: ...


def looks_like_torch(path: Path) -> bool:
    """Whether a file begins like one that torch.save has written.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with open_header(path) as file:
        return _magic(file) is not None


def read_torch_file(path: Path, name: str, index: int = 0) -> Part:
    """Read the headers of one file; nothing in it is executed.

    Args:
        path: the file.
        name: its name relative to the checkpoint's folder.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file holds no state dict of plain tensors, is damaged or is incomplete.
    """
    with open_header(path) as file:
        container = _open(file, index)
        state_dict = _state_dict(container)
        tensors, ignored = _model_tensors(container, state_dict)
        beside = _tensors_beside(container, tensors)
        warnings = (
            *_warn_entry(state_dict, ignored),
            *_warn_beside(beside, state_dict.entry),
            *_warn_lazy(state_dict),
            *_warn_spare(container),
            *_warn_order(container),
            *_warn_untrusted(container.pickled.untrusted),
        )
        return Part(
            CheckpointFile(name, path, file.nbytes, container.unmappable, container.big_endian),
            tensors,
            warnings,
            state_dict.entry,
            bool(ignored),
            beside,
            container.pickled.untrusted,
        )


def read_torch_tensor(file: HeaderFile, name: str, index: int) -> StoredTensor:
    """Read the header of a file, or a part of one, that is one tensor by itself.

    Args:
        file: the file.
        name: the tensor's name, which such a file does not hold.
        index: its place in `Checkpoint.files`.

    Raises:
        CheckpointError: the file holds something else, is damaged or is incomplete.
    """
    container = _open(file, index)
    root = container.pickled.root
    if not isinstance(root, PickledTensor):
        raise file.refuse(f"is no single tensor but a {describe(root)}", "save the tensor itself with torch.save")
    if container.big_endian:
        raise file.refuse("is big-endian", "save it again on a little-endian machine")
    storage = container.storage(name, root.storage)
    return StoredTensor(name, root.dtype, root.shape, storage, root.offset, root.strides, lazy=root.lazy)


def _magic(file: HeaderFile) -> type[TorchArchive | LegacyFile] | None:
    head = file.read(0, min(file.nbytes, len(LEGACY_MAGIC)))
    if head.startswith(ZIP_MAGIC):
        return TorchArchive
    return LegacyFile if head == LEGACY_MAGIC else None


def _open(file: HeaderFile, index: int) -> _Container:
    kind = _magic(file)
    if kind is None:
        foreign = recognise(file)
        what, hint = foreign if foreign is not None else ("not a file that torch.save wrote", _AGAIN)
        raise file.refuse(f"is {what}", hint)
    return kind(file, index)


def _state_dict(container: _Container) -> StateDict:
    root = container.pickled.root
    found = StateDict((), {}) if root == {} else state_dict_of(root)
    if found is None:
        raise _no_state_dict(container, root)
    return found


def _no_state_dict(container: _Container, root: object) -> Exception:
    refuse = container.file.refuse
    if isinstance(root, Unknown) and container.pickled.storages:
        return refuse(
            f"holds a whole pickled model ({describe(root)}), not a state dict, and is not executed",
            _UNWRAP.format("torch.load(file, weights_only=False).state_dict()"),
        )
    if type(root) is not dict:
        return refuse(f"is no state dict but a single value: {describe(root)}", "save model.state_dict()")
    whole = next((key for key, value in root.items() if isinstance(value, Unknown)), None)
    if whole is not None and container.pickled.storages:
        expression = f"torch.load(file, weights_only=False)[{shown(repr(whole))}].state_dict()"
        return refuse(f"holds no state dict but {_in_words(root)}, and executes none of it", _UNWRAP.format(expression))
    return refuse(f"holds no tensors but {_in_words(root)}", "save model.state_dict()")


def _model_tensors(
    container: _Container, state_dict: StateDict
) -> tuple[tuple[StoredTensor, ...], dict[object, object]]:
    """The named tensors, and the values that are none."""
    tensors, ignored = [], {}
    for name, value in state_dict.values.items():
        if type(name) is str and isinstance(value, PickledTensor):
            _check_order(container, name, value)
            storage = container.storage(name, value.storage)
            tensors.append(
                StoredTensor(name, value.dtype, value.shape, storage, value.offset, value.strides, lazy=value.lazy)
            )
        elif isinstance(value, OddTensor):
            raise container.file.refuse(
                f"has a tensor '{shown(str(name))}' {value.kind}; only plain dense tensors are read",
                "save it dense: tensor.to_dense(), tensor.dequantize() or tensor.full_tensor()",
            )
        else:
            ignored[name] = value
    return tuple(tensors), ignored


def _check_order(container: _Container, name: str, tensor: PickledTensor) -> None:
    """Torch turns round what a typed storage holds and leaves an untyped one as it is (serialization.py, `_load`)."""
    if container.big_endian and tensor.storage.dtype is None and BITS[tensor.dtype] > _BYTE:
        raise container.file.refuse(
            f"is big-endian, and torch would load '{shown(name)}' ({tensor.dtype}) with its bytes the wrong way round",
            "save it as safetensors on the machine that wrote it",
        )


def _tensors_beside(container: _Container, tensors: Sequence[StoredTensor]) -> tuple[StoredTensor, ...]:
    """One tensor for each storage that only others are in, as long as the storage."""
    used = {tensor.storage for tensor in tensors}
    others = {
        key: storage
        for key, ref in container.pickled.storages.items()
        if (storage := container.storage(f"storage {key}", ref)) not in used and storage.nbytes
    }
    names = paths_of_storages(container.pickled.root) if others else {}
    return tuple(
        StoredTensor(names.get(key, f"storage {shown(key)}"), ref.dtype or "uint8", (ref.elements,), storage)
        for key, storage in others.items()
        if (ref := container.pickled.storages[key])
    )


def _warn_entry(state_dict: StateDict, ignored: dict[object, object]) -> list[str]:
    warnings = []
    if state_dict.entry:
        warnings.append(f"the state dict is the entry {'.'.join(map(shown, state_dict.entry))}")
    if ignored:
        warnings.append(f"ignored what is no tensor: {_in_words(ignored)}")
    return warnings


def _warn_beside(beside: Sequence[StoredTensor], entry: tuple[str, ...]) -> list[str]:
    groups: dict[str, list[StoredTensor]] = defaultdict(list)
    prefix = "".join(f"{shown(part, 40)}." for part in entry)
    for tensor in beside:
        groups[tensor.name.removeprefix(prefix).split(".")[0]].append(tensor)
    if not groups:
        return []
    groups = dict(sorted(groups.items(), key=lambda group: -_nbytes(group[1])))
    words = listed(f"{name} ({len(tensors):,}, {format_bytes(_nbytes(tensors))})" for name, tensors in groups.items())
    lie = "lies 1 tensor" if len(beside) == 1 else f"lie {len(beside):,} tensors"
    return [f"beside the state dict {lie} of {format_bytes(_nbytes(beside))}, which torch.load reads too: {words}"]


def _nbytes(tensors: Sequence[StoredTensor]) -> int:
    return sum(tensor.storage.nbytes for tensor in tensors)


def _warn_lazy(state_dict: StateDict) -> list[str]:
    lazy = [name for name, value in state_dict.values.items() if isinstance(value, PickledTensor) and value.lazy]
    if not lazy:
        return []
    return [f"stored conjugated or negated, their bytes are not their values: {listed(map(str, lazy))}"]


def _warn_spare(container: _Container) -> list[str]:
    if not container.spare_bytes:
        return []
    return [f"{shown(container.file.path.name)} holds {format_bytes(container.spare_bytes)} that no tensor uses"]


def _warn_order(container: _Container) -> list[str]:
    return ["its numbers are big-endian: torch turns them round as it loads"] if container.big_endian else []


def _warn_untrusted(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"refers to {listed(names)}, which torch.load does not load unless it is told to trust the file"]


def _in_words(entries: dict[object, object]) -> str:
    return listed(f"{shown(_key(name), 40)} ({describe(value)})" for name, value in entries.items())


def _key(name: object) -> str:
    return str(name) if type(name) in (str, int) else describe(name)
