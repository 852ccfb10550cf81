"""Makes a virtual machine give back the memory that it has lent to its host, before anything is timed.

With free page reporting, memory that was free for some seconds belongs to the host, and its next touch costs three to
ten times as much: the same load takes 0.6 s or 4 s. So a passing process touches as much as the load will need.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["populate"]

_REPORTING: Final = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_MEMINFO: Final = Path("/proc/meminfo")
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; include/uapi/asm-generic/mman-common.h
_SHARE: Final = 0.9  # of what is free: the page cache must not be driven out
_CODE: Final = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1])); m.madvise(int(sys.argv[2])); m.close()"


def populate(nbytes: int) -> bool:
    """Touch and release so many bytes in another process; False where that is not called for or they are not free."""
    if not nbytes or not _REPORTING.exists() or nbytes > _SHARE * _free_bytes():
        return False
    command = [sys.executable, "-I", "-S", "-c", _CODE, str(nbytes), str(_MADV_POPULATE_WRITE)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0  # noqa: S603 - our own


def _free_bytes() -> int:
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) * 1024
    return 0
