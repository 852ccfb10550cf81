"""Which layers transformers and accelerate leave on disk where only so much may stay: what names and sizes tell of it.

Both walk through the model (accelerate's and transformers' `infer_auto_device_map`): module by module as long as room
for the largest of those to come is left beside them. What does not fit is split, a layer excepted; with the first that
neither fits nor can be split, all others go to the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.devices import index_of, kind_of
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = ["IMPORT", "layer_of", "left_on_disk", "max_memory", "why_not_offloaded"]

IMPORT: Final = "from tempfile import mkdtemp\n"
"""What `max_memory` needs."""

_KNOWN: Final = ("llama", "gpt2")  # whose modules come in an order that we know

_NAMED: Final = ("cpu", "mps")  # what accelerate knows by name; all others by number


class _Module:
    """A module and what is below it. The few bytes of rotary tables, which no header names, are left out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nbytes = 0
        self.parameters: list[str] = []
        self.children: dict[str, _Module] = {}

    @property
    def is_whole(self) -> bool:
        """Whether it is never split: a layer, which has a number, or a module without others in it."""
        return not self.children or self.name.rpartition(".")[2].isdecimal()

    def add(self, parameter: Parameter, nbytes: int) -> None:
        """Take up a parameter of it, or of a module below."""
        self.nbytes += nbytes
        self.parameters.append(parameter.name)
        child, inner, _ = parameter.name[len(self.name) + bool(self.name) :].partition(".")
        if inner:
            name = f"{self.name}.{child}" if self.name else child
            self.children.setdefault(child, _Module(name)).add(parameter, nbytes)

    def whole(self) -> Iterator[_Module]:
        """What is never split, of it and of what is below."""
        if self.is_whole:
            yield self
            return
        for child in self.children.values():
            yield from child.whole()


class _Reserve:
    """Room for the largest layer to come: it is brought in from the disk beside what stays."""

    def __init__(self, waiting: Sequence[_Module]) -> None:
        layers = [layer for module in waiting for layer in module.whole()]
        self.nbytes = max((layer.nbytes for layer in layers), default=0)
        self._largest = {layer.name for layer in layers if layer.nbytes == self.nbytes}

    def without(self, module: _Module, waiting: Sequence[_Module]) -> _Reserve:
        """What is left to reserve once a module's turn has come."""
        self._largest -= {layer.name for layer in module.whole()}
        return self if self._largest else _Reserve(waiting)


def left_on_disk(task: LoadTask, size_of: Callable[[Parameter], int]) -> frozenset[str]:
    """The names of the parameters for which `max_memory_bytes` has no room; buffers stay.

    Args:
        task: what to load.
        size_of: as how many bytes a parameter counts.
    """
    room_bytes = task.options.max_memory_bytes
    if room_bytes is None:
        return frozenset()
    root = _Module("")
    for parameter in task.architecture.parameters:
        if parameter.tied_to is None:
            root.add(parameter, size_of(parameter))
    staying = set(_staying(root, room_bytes))
    return frozenset(
        parameter.name
        for parameter in task.architecture.parameters
        if (parameter.tied_to or parameter.name) not in staying and not parameter.buffer
    )


def _staying(root: _Module, room_bytes: int) -> Iterator[str]:
    waiting = list(root.children.values())
    reserve = _Reserve(waiting)
    while waiting:
        module = waiting.pop(0)
        reserve = reserve.without(module, waiting)
        if module.nbytes + reserve.nbytes <= room_bytes:
            room_bytes -= module.nbytes
            yield from module.parameters
        elif module.is_whole:
            return
        else:
            waiting = [*module.children.values(), *waiting]
            reserve = _Reserve(waiting)


def why_not_offloaded(task: LoadTask, left: frozenset[str]) -> str | None:
    """In one sentence why `max_memory_bytes` cannot be kept to, or what it leads to is unknown; None when all is well.

    Args:
        task: what to load.
        left: what is left on disk.
    """
    room_bytes = task.options.max_memory_bytes
    if room_bytes is None:
        return None
    if task.architecture.id not in _KNOWN or task.grouped.copies:
        return f"which layers stay within --max-memory is known of {' and '.join(_KNOWN)} alone: leave it out"
    if all(parameter.name in left or parameter.buffer for parameter in task.architecture.parameters):
        return (
            f"nothing of the model stays within --max-memory {format_bytes(room_bytes)}: "
            "its first layer does not fit beside room for the largest"
        )
    return None


def max_memory(task: LoadTask) -> str:
    """The arguments that say how much may stay, and that the rest may go to a folder of its own."""
    kind = kind_of(task.options.device)
    device = repr(kind) if kind in _NAMED else index_of(task.options.device)
    return (
        f'device_map="auto", max_memory={{{device}: {task.options.max_memory_bytes}}},\n'
        "    offload_folder=mkdtemp(),  # for what has no room and is not in safetensors; yours to remove\n"
    )


def layer_of(name: str) -> str:
    """The part of the model that goes to one place with a parameter: a numbered layer, or the parameter's module."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return ".".join(parts[: number + 1])
