"""What the memory cgroups around a process allow, use and have killed, in either version and in containers.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, `man 7 cgroups`.
Standard library only: the worker may import it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.sampling.file_system import PROC, Mount, read_mounts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MemoryGroup", "available_bytes", "folder_at", "memory_group", "memory_limit_bytes", "memory_used_bytes",
    "oom_kills", "system_oom_kills",
]  # fmt: skip

# Version 1 says "no limit" as the largest number of whole pages, which differs with the size of a page.
_UNLIMITED: Final = 1 << 62

_IN_EVERY_GROUP: Final = "cgroup.procs"

_BREATH_BYTES: Final = 4 << 20  # more than a single charge ever asks for: a huge page of 2 MiB


class _Names(NamedTuple):
    limit: str
    throttle: str  # who exceeds it is not killed but slowed down until next to nothing goes on
    usage: str
    reclaimable: str  # in memory.stat, with the groups below
    inherited_limit: str  # in memory.stat
    kills: str  # the file with a line "oom_kill N"
    peak: str
    file: str  # in memory.stat, with the groups below: page cache, shared memory included
    shared: str  # the latter alone
    settings: tuple[str, ...]  # what limits memory, and what keeps swap from being a way out


_NAMES: Final = {
    1: _Names("memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_inactive_file", "hierarchical_memory_limit",
              "memory.oom_control", "memory.max_usage_in_bytes", "total_cache", "total_shmem",
              ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")),
    2: _Names("memory.max", "memory.high", "memory.current", "inactive_file", "", "memory.events", "memory.peak",
              "file", "shmem", ("memory.max", "memory.swap.max")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A process's memory cgroup. Keep it to ask after the process has died: a zombie's path reads ``/`` in version 1.

    Args:
        folder: the group.
        top: where the hierarchy is mounted; groups above it are out of sight.
        version: 1 or 2.
    """

    folder: Path
    top: Path
    version: int

    def limit_bytes(self) -> int | None:
        """The tightest limit of this group and of those around it; None without one."""
        return min((limit for group in self.lineage() if (limit := group.own_limit_bytes()) is not None), default=None)

    def own_limit_bytes(self) -> int | None:
        """The limit of this group itself; None without one."""
        names = _NAMES[self.version]
        limits = [_number(self.folder / names.limit)]
        if names.inherited_limit:
            # Version 1 tells here what groups out of sight allow, as a pod's around its container.
            limits.append(_number_after(self.folder / "memory.stat", names.inherited_limit))
        return min((limit for limit in limits if limit is not None), default=None)

    def why_no_limit(self) -> str:
        """Why `limit_bytes` has none to tell where one may be set: it may not be read. Empty where there is none."""
        names = _NAMES[self.version]
        if not (self.top / _IN_EVERY_GROUP).exists():  # something else is mounted over it
            return f"no memory cgroup can be seen at {self.top}"
        # What is not there is no limit: the root of version 2 has none, nor has a group without the controller.
        hidden = next((path for group in self.lineage() if _hidden(path := group.folder / names.limit)), None)
        return "" if hidden is None else f"{hidden} may not be read here"

    def used_bytes(self) -> int | None:
        """What the group uses, its page cache and the groups below it included; None where it is not counted."""
        return _number(self.folder / _NAMES[self.version].usage)

    def available_bytes(self) -> int | None:
        """What may still be allocated before a limit is met: limit − usage + inactive file pages; None without a limit.

        The tightest of this group and those around it: a sibling's use counts where both share a parent's limit.
        Where version 2 only slows a group down (memory.high), room ends, too.
        """
        return min((room for group in self.lineage() if (room := group._own_room()) is not None), default=None)

    def oom_kills(self) -> int | None:
        """Processes of this group (in version 2 also of those below it) that the kernel has killed for memory."""
        return _number_after(self.folder / _NAMES[self.version].kills, "oom_kill")

    def peak_bytes(self) -> int | None:
        """The most that the group has ever used, its page cache included; None where it is not counted."""
        return _number(self.folder / _NAMES[self.version].peak)

    def file_bytes(self) -> int | None:
        """Page cache of files that is charged to the group: what its processes were the first to read."""
        names = _NAMES[self.version]
        sizes = _numbers(self.folder / "memory.stat")
        return None if names.file not in sizes else sizes[names.file] - sizes.get(names.shared, 0)

    def met_limit(self) -> bool:
        """Whether its own limit has ever kept it from more; as far as the kernel tells."""
        if self.version == 2:
            return bool(_number_after(self.folder / "memory.events", "oom"))
        # Version 1 counts no such moments reliably (failcnt stays 0 on recent kernels): it has come within a breath.
        limit, peak = _number(self.folder / _NAMES[1].limit), self.peak_bytes()
        return limit is not None and peak is not None and peak >= limit - _BREATH_BYTES

    def set_limit(self, nbytes: int) -> None:
        """Let the group have so much memory, and no swap instead.

        Raises:
            OSError: this process may not.
        """
        limit, swap = (self.folder / name for name in _NAMES[self.version].settings)
        limit.write_text(str(nbytes))
        if swap.exists():
            # Version 1 counts memory and swap together here, version 2 swap alone.
            swap.write_text(str(nbytes if self.version == 1 else 0))
        elif (swappiness := self.folder / "memory.swappiness").exists():  # version 1 whose kernel keeps no such books
            swappiness.write_text("0")

    def lineage(self) -> list[MemoryGroup]:
        """This group and those that it lies in, from the inside out."""
        folders = [self.folder, *self.folder.parents]
        return [MemoryGroup(folder, self.top, self.version) for folder in folders if folder.is_relative_to(self.top)]

    def _own_room(self) -> int | None:
        names, used = _NAMES[self.version], self.used_bytes()
        limits = [self.own_limit_bytes(), _number(self.folder / names.throttle) if names.throttle else None]
        limit = min((limit for limit in limits if limit is not None), default=None)
        if limit is None or used is None:
            return limit
        reclaimable = _number_after(self.folder / "memory.stat", names.reclaimable) or 0
        return max(0, min(limit, limit - used + reclaimable))


def memory_group(pid: int | str = "self", proc: Path = PROC) -> MemoryGroup | None:
    """The memory cgroup of a process, as far as this process can see it.

    Where its folder is not visible (in most containers) it is the mounted root, which stands for the container.

    Args:
        pid: the process; "self" for the caller.
        proc: where procfs is mounted.

    Returns:
        The group; None where no memory hierarchy is mounted or the process is gone.
    """
    try:
        lines = os.fsdecode((proc / str(pid) / "cgroup").read_bytes()).splitlines()
        mounts = read_mounts(proc)
    except OSError:
        return None
    paths = {
        controller: path for _, names, path in (line.split(":", 2) for line in lines) for controller in names.split(",")
    }
    # On a hybrid system the memory controller is in one hierarchy only: in version 1 where that one has it.
    for version, kind, controller in ((1, "cgroup", "memory"), (2, "cgroup2", "")):
        seen = [mount for mount in mounts if mount.kind == kind and (version == 2 or controller in mount.options)]
        if controller in paths and seen:
            return _visible(seen, paths[controller], version)
    return None


def memory_limit_bytes(proc: Path = PROC) -> int | None:
    """The tightest memory limit on this process; None without one."""
    group = memory_group(proc=proc)
    return None if group is None else group.limit_bytes()


def memory_used_bytes(proc: Path = PROC) -> int | None:
    """What this process's memory cgroup uses, page cache included; None where it is not counted."""
    group = memory_group(proc=proc)
    return None if group is None else group.used_bytes()


def available_bytes(proc: Path = PROC) -> int | None:
    """What this process's memory cgroups leave to allocate; None without a limit."""
    group = memory_group(proc=proc)
    return None if group is None else group.available_bytes()


def oom_kills(pid: int, proc: Path = PROC) -> int | None:
    """Processes killed for memory in the cgroup of a *living* process; None where it is not counted.

    To compare after its death, keep the `memory_group`.
    """
    group = memory_group(pid, proc)
    return None if group is None else group.oom_kills()


def system_oom_kills(proc: Path = PROC) -> int | None:
    """Processes that the kernel has killed for memory since boot, whoever set the limit; None if unknown."""
    return _number_after(proc / "vmstat", "oom_kill")


def _visible(mounts: list[Mount], path: str, version: int) -> MemoryGroup:
    for mount in mounts:
        folder = folder_at(mount, path)
        if folder is not None:
            return MemoryGroup(folder, mount.point, version)
    return MemoryGroup(mounts[0].point, mounts[0].point, version)


def folder_at(mount: Mount, path: str) -> Path | None:
    """Where a group's folder is seen below a mounted hierarchy; None where it is out of sight.

    Args:
        mount: the hierarchy.
        path: the group's, as `/proc/pid/cgroup` has it.
    """
    # Inside a cgroup namespace both may start with "..", and then nothing leads from the mount to the group.
    root = str(mount.root)
    inside = path.removeprefix(root) if path == root or path.startswith(root.rstrip("/") + "/") else path
    parts = [part for part in inside.split("/") if part]
    folder = mount.point.joinpath(*parts)
    return folder if ".." not in parts and folder.is_dir() else None


def _hidden(path: Path) -> bool:
    try:
        path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _number(path: Path) -> int | None:
    try:
        value = int(path.read_text())
    except (OSError, ValueError):  # ValueError: "max"
        return None
    return value if value < _UNLIMITED else None


def _number_after(path: Path, name: str) -> int | None:
    value = _numbers(path).get(name)
    return value if value is not None and value < _UNLIMITED else None


def _numbers(path: Path) -> dict[str, int]:
    """The lines "name number" of a file, without others; none where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}
