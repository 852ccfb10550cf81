"""Makes a virtual machine give back the memory that it has lent to its host, before anything is timed.

With free page reporting, memory that was free for some seconds belongs to the host, and its next touch costs three to
ten times as much: the same load takes 0.6 s or 4 s. So a passing process touches as much as the load will need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from meminspect.sampling.cgroups import memory_group

__all__ = ["populate"]

_REPORTING: Final = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_MEMINFO: Final = Path("/proc/meminfo")
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; include/uapi/asm-generic/mman-common.h
_SHARE: Final = 0.9  # of what is free: the page cache must not be driven out
_INTERPRETER_BYTES: Final = 16 << 20  # of the passing process: it shares the worker's limit, if there is one
# It must not outlive us: PR_SET_PDEATHSIG, SIGKILL (man 2 prctl), and then a look whether it has come too late.
# Small pages and huge ones come from different lists of the kernel's, so that either kind is touched.
_CODE: Final = """
import ctypes, mmap, os, sys
nbytes, advice, parent = map(int, sys.argv[1:])
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == parent:
    small = mmap.mmap(-1, nbytes)
    small.madvise(advice)
    small.close()
    huge = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        huge.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        sys.exit()
    huge.madvise(advice)
"""


def populate(nbytes: int) -> bool:
    """Touch and release so many bytes in another process; False where that is not called for or they are not free."""
    if not nbytes or not _REPORTING.exists() or nbytes > _SHARE * _free_bytes() - _INTERPRETER_BYTES:
        return False
    numbers = map(str, (nbytes, _MADV_POPULATE_WRITE, os.getpid()))
    command = [sys.executable, "-I", "-S", "-c", _CODE, *numbers]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - our own


def _free_bytes() -> int:
    """What is free now; in a memory cgroup with a limit, what it lacks to the limit."""
    group = memory_group()
    limit, used = (group.limit_bytes(), group.used_bytes()) if group is not None else (None, None)
    room = [] if limit is None or used is None else [limit - used]
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # a container may hide it
        return 0
    room += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:")]
    return min(room, default=0)
