"""A cgroup that the user's systemd makes for one command: the only way to one for a user without privileges.

In scope mode systemd-run moves itself and then becomes the command (`man 1 systemd-run`), so that process id,
descriptors and environment stay. Where the memory controller is not delegated it ignores MemoryMax in silence
(systemd#9641, #13347): whether the limit is there is read from the cgroup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from meminspect.engine.limits.confinement import Confinement
from meminspect.engine.limits.group import kill_members
from meminspect.errors import RunError
from meminspect.sampling.cgroups import memory_group
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.sampling.cgroups import MemoryGroup

__all__ = ["group_of", "limited_scope"]

_PROGRAM: Final = "systemd-run"
_PATIENCE_S: Final = 10.0  # with a bus and a manager that may have much to do
_PAUSE_S: Final = 0.005

# A scope goes with its last process, and with it the counters that tell what killed it: `cat` stays in it until we
# close the other end of its standard input. It holds none of the worker's descriptors and is nobody's child.
_HOLD: Final = """
import os, sys
hold = int(sys.argv[1])
child = os.fork()
if not child:
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((hold, 0), (null, 1), (null, 2)):
        os.dup2(source, target)
    os.closerange(3, 1 << 20)
    os.execvp("cat", ["cat"])
os.waitpid(child, 0)
os.close(hold)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def limited_scope(nbytes: int) -> Iterator[Confinement]:
    """Prepare a scope with a limit. It is made when the worker is, and found once it `settled`.

    Raises:
        RunError: there is no systemd-run, no manager that it reaches, or no limit that this one may set.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise RunError(f"there is no {_PROGRAM}")
    scope = (
        program, "--user", "--scope", "--quiet", "--collect", "-p", f"MemoryMax={nbytes}", "-p", "MemorySwapMax=0",
        "-p", "Delegate=yes",  # or the manager ends the scope after an OOM kill (`man 5 systemd.scope`, OOMPolicy=)
        "--",
    )  # fmt: skip
    version = _tried(scope, nbytes).version
    hold, holding = os.pipe()
    found: list[MemoryGroup] = []

    def find_group(pid: int, alive: Callable[[], bool]) -> MemoryGroup:
        found.append(group_of(pid, alive, nbytes))
        return found[0]

    try:
        yield Confinement(
            nbytes,
            f"cgroup v{version} of systemd-run",
            prefix=(*scope, sys.executable, "-I", "-S", "-c", _HOLD, str(hold)),
            passed=(hold,),
            find_group=find_group,
        )
    finally:
        os.close(holding)
        os.close(hold)
        for group in found:
            kill_members(group.folder)


def _tried(scope: tuple[str, ...], nbytes: int) -> MemoryGroup:
    """The group of a passing process in such a scope."""
    try:
        process = subprocess.Popen(  # noqa: S603 - systemd's own program, and cat
            [*scope, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise RunError(f"{_PROGRAM}: {error.strerror}") from error
    try:
        return group_of(process.pid, lambda: process.poll() is None, nbytes)
    except RunError as error:
        process.kill()
        said = process.communicate()[1].strip()
        raise RunError(f"{_PROGRAM}: {shown(said.splitlines()[0], 200)}" if said else error.message) from error
    finally:
        process.kill()
        process.communicate()


def group_of(pid: int, alive: Callable[[], bool], nbytes: int) -> MemoryGroup:
    """Wait until a process is in a group other than ours that has a limit of its own.

    Raises:
        RunError: it has ended, or takes too long.
    """
    own, deadline = memory_group(), time.monotonic() + _PATIENCE_S
    while alive() and time.monotonic() < deadline:
        group = memory_group(pid)
        moved = group is not None and (own is None or group.folder != own.folder)
        if group is not None and moved and (limit := group.own_limit_bytes()) is not None and limit <= nbytes:
            return group
        time.sleep(_PAUSE_S)
    raise RunError(f"{_PROGRAM} sets no memory limit: the user's manager is not there, or has no memory controller")
