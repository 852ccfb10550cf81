"""How one worker is held to a limit, whichever means does it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.sampling.cgroups import MemoryGroup

__all__ = ["Confinement"]


@dataclass(frozen=True, slots=True)
class Confinement:
    """A limit, and what has to be done for a worker to be under it.

    Args:
        limit_bytes: of memory, for the worker and what it starts.
        mechanism: what enforces it, as the JSON contract has it.
        group: the memory cgroup that counts for it; None before `settled`, and where there is none.
        enter: called in the new process before it becomes the interpreter.
        prefix: a command that puts the one behind it under the limit and becomes it.
        passed: descriptors that the prefix needs.
        find_group: waits until the prefix has done so; takes the process id and whether the process is alive.
        bias: what the mechanism counts otherwise than a machine of that size would, in a sentence; empty for none.
        note: the same, and why it could not be a better one.
    """

    limit_bytes: int
    mechanism: str
    group: MemoryGroup | None = None
    enter: Callable[[], None] | None = None
    prefix: tuple[str, ...] = ()
    passed: tuple[int, ...] = ()
    find_group: Callable[[int, Callable[[], bool]], MemoryGroup] | None = None
    bias: str = ""
    note: str = ""

    def settled(self, pid: int, alive: Callable[[], bool]) -> Confinement:
        """The same, once the worker is under it.

        Args:
            pid: the worker's.
            alive: tells whether it still is.

        Raises:
            RunError: it does not get there.
        """
        if self.find_group is None:
            return self
        return dataclasses.replace(self, group=self.find_group(pid, alive))

    def stood_in_the_way(self) -> bool:
        """Whether the limit has kept the worker from more; as far as the kernel tells."""
        return self.group is None or self.group.met_limit()

    def document(self, file_bytes: int | None) -> dict[str, Any]:
        """What the capture keeps of it.

        Args:
            file_bytes: the most page cache that has been seen charged to it.
        """
        return {
            "bytes": self.limit_bytes,
            "mechanism": self.mechanism,
            "cgroup_peak_bytes": None if self.group is None else self.group.peak_bytes(),
            "cgroup_file_bytes": file_bytes,
            "note": self.note or None,
        }
