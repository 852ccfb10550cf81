"""The file system that a path lies on, on any system: the kernel's own table where there is Linux's, else psutil's.

Apart from `file_system`, which the worker imports, as it makes do without psutil.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from meminspect.sampling.file_system import file_system

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["UNKNOWN_FILE_SYSTEM", "file_system_of"]

UNKNOWN_FILE_SYSTEM: Final = "no table of what is mounted can be read here"


def file_system_of(path: Path) -> str | None:
    """The type of the file system that holds a path, as the system spells it: ``ext4``, ``apfs``; None if unknown."""
    return file_system(path) if sys.platform == "linux" else _by_psutil(path)


def _by_psutil(path: Path) -> str | None:
    import psutil

    try:
        resolved = path.resolve()
        partitions = psutil.disk_partitions(all=True)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, psutil.Error):
        return None
    holding = [one for one in partitions if resolved.is_relative_to(one.mountpoint)]
    return str(max(holding, key=lambda one: len(one.mountpoint)).fstype) or None if holding else None
