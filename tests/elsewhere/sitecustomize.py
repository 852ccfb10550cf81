"""Takes away what only Linux has, before anything of ours is imported: for processes with this folder on PYTHONPATH.

What Python and psutil themselves need from it is imported first, so that they go on working.
"""

from __future__ import annotations

import asyncio  # noqa: F401
import builtins
import ctypes
import fcntl
import io
import mmap
import multiprocessing  # noqa: F401
import os
import platform
import resource
import select
import shutil  # noqa: F401
import signal
import socket  # noqa: F401
import subprocess  # noqa: F401
import sys
import sysconfig
import tempfile
import urllib.request  # noqa: F401
import uuid  # noqa: F401
from typing import Any

import psutil

_LINUX_ONLY = {
    os: ("memfd_create", "pidfd_open", "posix_fadvise", "posix_fallocate", "O_PATH", "O_TMPFILE", "O_DIRECT", "eventfd",
         "splice", "preadv", "pwritev", "sched_getaffinity", "sched_setaffinity",
         "sched_getscheduler", "sched_setscheduler", "getrandom",
         "copy_file_range", "setresuid", "getresuid", "unshare", "setns", "getxattr", "setxattr"),
    fcntl: ("F_SETSIG", "F_GETSIG", "F_SETPIPE_SZ", "F_ADD_SEALS"),
    mmap: ("MAP_POPULATE", "MADV_POPULATE_READ", "MADV_HUGEPAGE", "MADV_DONTFORK", "MADV_REMOVE"),
    select: ("epoll",),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGPWR"),
}  # fmt: skip
for module, names in _LINUX_ONLY.items():
    for name in names:
        module.__dict__.pop(name, None)
for name in [name for name in dir(os) if name.startswith(("POSIX_FADV_", "MFD_", "EFD_", "SCHED_", "P_PIDFD"))]:
    del os.__dict__[name]


class _Library(ctypes.CDLL):
    """A C library that is not glibc."""

    def __getattr__(self, name: str) -> Any:
        if name in ("mallinfo2", "mallinfo", "malloc_trim", "prctl", "cachestat"):
            raise AttributeError(name)
        return super().__getattr__(name)


def _usage_in_bytes(who: int, of: Any = resource.getrusage) -> resource.struct_rusage:
    usage = list(of(who))
    usage[2] *= 1024  # ru_maxrss, as macOS has it
    return resource.struct_rusage(usage)


_HIDDEN = ("/proc", "/sys", "/dev/kmsg")


def _without_linux(function: Any) -> Any:
    def wrapped(path: Any, *arguments: Any, **named: Any) -> Any:
        asks = sys._getframe(1).f_globals.get("__name__", "")
        if not asks.startswith(("psutil", "posixpath")) and isinstance(path, (str, bytes, os.PathLike)):
            text = os.fsdecode(path)
            if any(text == hidden or text.startswith(f"{hidden}/") for hidden in _HIDDEN):
                raise FileNotFoundError(2, "No such file or directory", text)
        return function(path, *arguments, **named)

    return wrapped


psutil.virtual_memory()
sysconfig.get_config_vars()
tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined] # as it found when it was imported
ctypes.CDLL = _Library  # type: ignore[misc]
resource.getrusage = _usage_in_bytes
builtins.open = io.open = _without_linux(open)
for name in ("open", "stat", "access", "readlink", "listdir", "scandir"):
    setattr(os, name, _without_linux(getattr(os, name)))
platform.uname()  # which asks the system now
sys.platform = "darwin"
