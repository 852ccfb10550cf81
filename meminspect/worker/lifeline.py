"""A worker that outlives its supervisor would hold gigabytes for nobody: the kernel ends it.

The supervisor holds the only write end of a pipe. When it dies, however it dies, the pipe hangs up and the kernel
sends SIGKILL to the worker (`man 2 fcntl`, F_SETSIG): no thread of ours has to get hold of the interpreter for it, as
one in the middle of a long read would not. `PR_SET_PDEATHSIG` would fire when the spawning *thread* ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
import threading
from typing import Final

__all__ = ["die_with", "prefer_as_victim"]

_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)  # named in Python 3.13 only; 10 on every Linux


def die_with(lifeline: int) -> None:
    """Be killed as soon as the other end of the pipe `lifeline` is closed; at once if it is already."""
    try:
        _told_by_kernel(lifeline)
    except OSError:  # another system, or a container that forbids it: the next best
        threading.Thread(target=_wait_and_die, args=(lifeline,), name="lifeline", daemon=True).start()
        return
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):  # it hung up before we were listening
        os.kill(os.getpid(), signal.SIGKILL)


def _told_by_kernel(lifeline: int) -> None:
    if sys.platform != "linux":  # where the same number is another command
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _wait_and_die(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written: it ends with the other end
    os.kill(os.getpid(), signal.SIGKILL)


def prefer_as_victim() -> None:
    """Make the kernel's OOM killer choose this process first, before anything that the user cares for."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - procfs
        file.write("1000")
