"""What lies in the object that `torch.save` has written: the state dict, and the tensors beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.checkpoint.torch_globals import OddTensor, PickledTensor
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Path: TypeAlias = "tuple[object, ...]"  # keys and indices

__all__ = ["StateDict", "paths_of_storages", "state_dict_of"]

# Under which training code keeps the model, in the order in which they are looked for at every level.
_ENTRIES: Final = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights")
_NOT_THE_MODEL: Final = ("optim", "sched", "scaler", "rng", "amp", "callback", "loop")
_MAX_DEPTH = 8
_MAX_KEY = 200  # letters of a key that leads to a state dict
_MAX_PART = 40  # letters of a key as a part of a name that is only shown


class StateDict(NamedTuple):
    """A dictionary with tensors in it, and the keys that lead to it."""

    entry: tuple[str, ...]
    values: dict[object, object]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors' storages."""
        storages = {value.storage for value in self.values.values() if isinstance(value, PickledTensor)}
        return sum(storage.nbytes for storage in storages)


def state_dict_of(root: object) -> StateDict | None:
    """The model's state dict: at the top, under one of the usual keys, or the largest elsewhere; None without any."""
    candidates = {
        found.entry: found
        for path, value in _walk(root, ())
        if type(value) is dict and (found := _candidate(path, value)) is not None
    }
    leading = {entry[:length] for entry in candidates for length in range(len(entry) + 1)}
    entry: tuple[str, ...] = ()
    while (longer := next(((*entry, key) for key in _ENTRIES if (*entry, key) in leading), None)) is not None:
        entry = longer
    if entry in candidates:
        return candidates[entry]
    below = [candidate for candidate in candidates.values() if candidate.entry[: len(entry)] == entry]
    likely = [candidate for candidate in below if not any(map(_is_not_the_model, candidate.entry))]
    return max(likely or below, key=lambda candidate: candidate.nbytes, default=None)


def paths_of_storages(root: object) -> dict[str, str]:
    """For each storage's key a name of the first tensor in it: ``optimizer.state.0.exp_avg``."""
    names: dict[str, str] = {}
    for path, value in _walk(root, ()):
        if isinstance(value, PickledTensor) and value.storage.key not in names:
            names[value.storage.key] = ".".join(shown(str(part), _MAX_PART) for part in path)
    return names


def _walk(value: object, path: Path, seen: set[int] | None = None) -> Iterator[tuple[Path, object]]:
    """Every value with the keys and indices that lead to it; a container before what it holds, and only once."""
    yield path, value
    seen = set() if seen is None else seen
    if type(value) not in (dict, list, tuple) or id(value) in seen or len(path) >= _MAX_DEPTH:
        return
    seen.add(id(value))
    items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, inner in items:
        yield from _walk(inner, (*path, key), seen)


def _candidate(path: Path, values: dict[object, object]) -> StateDict | None:
    """The dictionary as a state dict, where it holds a tensor and plain keys lead to it."""
    entry = tuple(part for part in path if type(part) is str and len(part) <= _MAX_KEY)
    holds = any(type(key) is str and isinstance(value, (PickledTensor, OddTensor)) for key, value in values.items())
    return StateDict(entry, values) if holds and len(entry) == len(path) else None


def _is_not_the_model(key: str) -> bool:
    return any(word in key.lower() for word in _NOT_THE_MODEL)
