"""A memory limit for one worker: a cgroup of its own that comes with the run and goes with it.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meminspect.engine.limits.confinement import Confinement
from meminspect.errors import RunError
from meminspect.sampling.cgroups import MemoryGroup, memory_group

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["kill_members", "limited_group"]

_PREFIX: Final = "meminspect-run-"  # and the supervisor's process id: a name whose process is gone is stale
_MEMBERS: Final = "cgroup.procs"
_REMOVAL_S: Final = 2.0
_PAUSE_S: Final = 0.01


@contextlib.contextmanager
def limited_group(nbytes: int) -> Iterator[Confinement]:
    """Make a group with a limit near this process's own, and remove it in the end with all that is still in it.

    Raises:
        RunError: this process cannot, for the reason that it says.
    """
    own = memory_group()
    if own is None:
        raise RunError("no memory cgroups are mounted here")
    place = _place(own)
    _remove_stale(place.folder)
    folder = place.folder / f"{_PREFIX}{os.getpid()}"
    made = MemoryGroup(folder, place.top, place.version)
    try:
        folder.mkdir()
    except OSError as error:
        raise _impossible(error, place.folder) from error
    try:
        try:
            made.set_limit(nbytes)
        except OSError as error:
            raise _impossible(error, folder) from error

        def enter() -> None:  # what the process has used before stays charged to where it comes from
            (folder / _MEMBERS).write_text("0")

        yield Confinement(nbytes, f"cgroup v{made.version}", made, enter)
    finally:
        _remove(folder)


def _impossible(error: OSError, folder: Path) -> RunError:
    return RunError(f"{folder}: {error.strerror}")


def _place(own: MemoryGroup) -> MemoryGroup:
    """The group to make another in.

    In version 2 a group that holds processes, as ours does, hands no memory controller to groups below it ("no
    internal processes"; the root may). There the new one stands beside ours, unless it would so evade a limit on us.

    Raises:
        RunError: there is none.
    """
    if own.version == 1:
        return own
    for group in own.lineage():
        if group.limit_bytes() != own.limit_bytes():
            break
        with contextlib.suppress(OSError):
            if "memory" in (group.folder / "cgroup.subtree_control").read_text().split():
                return group
    raise RunError(
        f"{own.folder} holds processes, so that cgroup v2 lets no group below it have a "
        f"limit of its own, and one beside it would evade the limits on it"
    )


def _remove_stale(place: Path) -> None:
    """Remove the empty groups of supervisors that were killed before they could."""
    for folder in place.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX)
        if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():  # process ids come again
            with contextlib.suppress(OSError):  # somebody is in it still, or it is not ours
                folder.rmdir()


def _remove(folder: Path) -> None:
    """Remove a group; what the worker has left behind in it is killed, since only an empty group can be removed."""
    deadline = time.monotonic() + _REMOVAL_S
    while not _removed(folder) and time.monotonic() < deadline:
        kill_members(folder)
        time.sleep(_PAUSE_S)


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # somebody is in it still
        folder.rmdir()
    return not folder.exists()


def kill_members(folder: Path) -> None:
    """Kill what is in a group."""
    with contextlib.suppress(OSError):
        for member in map(int, (folder / _MEMBERS).read_text().split()):
            if member:  # 0 is a process of another namespace here, and our own group to `kill`
                os.kill(member, signal.SIGKILL)
