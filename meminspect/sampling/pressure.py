"""How long tasks have waited for memory and for storage, as the kernel counts it (Documentation/accounting/psi.rst).

The narrowest books there are: of a process's own cgroup in version 2, which has `memory.pressure` and `io.pressure`,
else of the whole machine, `/proc/pressure`. Standard library only: the worker imports it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from meminspect.sampling.cgroups import folder_at
from meminspect.sampling.file_system import PROC, read_mounts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NO_PRESSURE", "Pressure", "PressureBooks", "pressure_books"]

NO_PRESSURE: Final = "this kernel does not count pressure (PSI), or shows it to nobody here"

_TOTAL: Final = re.compile(rb"^(some|full) .*total=(\d+)", re.MULTILINE)
# What the root of the hierarchy, which stands for the machine, lacks; that of a container's own namespace has it.
_NOT_OF_THE_ROOT: Final = "cgroup.type"


class Pressure(NamedTuple):
    """Microseconds of waiting so far; `some`: of any task, `full`: of all that were not idle at once."""

    memory_some_us: int
    memory_full_us: int
    io_some_us: int
    io_full_us: int


class PressureBooks(NamedTuple):
    """Where pressure is read, and whose it is."""

    scope: Literal["cgroup", "machine"]
    memory: Path
    io: Path

    def read(self) -> Pressure | None:
        """The counts so far; None where the kernel does not tell."""
        memory, io = _totals(self.memory), _totals(self.io)
        return None if memory is None or io is None else Pressure(*memory, *io)


def pressure_books(pid: int | str = "self", proc: Path = PROC) -> PressureBooks | None:
    """The narrowest books that count a process's waiting and can be read; None where there are none.

    Args:
        pid: the process; "self" for the caller.
        proc: where procfs is mounted.
    """
    machine = PressureBooks("machine", proc / "pressure/memory", proc / "pressure/io")
    folder = _group_folder(pid, proc)
    own = [] if folder is None else [PressureBooks("cgroup", folder / "memory.pressure", folder / "io.pressure")]
    return next((books for books in (*own, machine) if books.read() is not None), None)


def _group_folder(pid: int | str, proc: Path) -> Path | None:
    """The process's group in the hierarchy of version 2; None where it is out of sight or the root."""
    try:
        lines = os.fsdecode((proc / str(pid) / "cgroup").read_bytes()).splitlines()
        mounts = read_mounts(proc)
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    folders = (folder_at(mount, path) for mount in mounts if mount.kind == "cgroup2")
    return next((folder for folder in folders if folder is not None and (folder / _NOT_OF_THE_ROOT).exists()), None)


def _totals(path: Path) -> tuple[int, int] | None:
    """Microseconds of `some` and of `full`."""
    try:
        text = path.read_bytes()
    except OSError:  # also where it exists: EOPNOTSUPP with psi=0
        return None
    totals = {kind: int(count) for kind, count in _TOTAL.findall(text)}
    return (totals[b"some"], totals[b"full"]) if totals.keys() == {b"some", b"full"} else None
