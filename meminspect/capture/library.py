"""Where captures live, and how they are named."""

from __future__ import annotations

import datetime
import itertools
import os
import re
from pathlib import Path

from meminspect.capture.store import SUFFIX
from meminspect.errors import UsageError

__all__ = ["default_folder", "new_path", "newest"]


def default_folder() -> Path:
    """The user's folder of captures, by the platform's convention.

    Raises:
        UsageError: there is no home folder.
    """
    import platformdirs  # only here: nothing else in this layer needs more than the standard library

    try:
        folder = platformdirs.user_data_path("meminspect")
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise UsageError("there is no home folder to keep captures in", "name one with --out, or set XDG_DATA_HOME")
    return folder / "captures"


def new_path(folder: Path, checkpoint: Path, strategy: str) -> Path:
    """A path for a new capture that sorts by time and says what it is of."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    subject = re.sub(r"[^\w.-]+", "_", checkpoint.absolute().name)[:60] or "checkpoint"
    subject = subject.encode()[:180].decode(errors="ignore")  # a file's name has 255 bytes, and a letter up to 4
    # The process id keeps two commands apart that begin in the same second, the number two runs of one.
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (folder / f"{stamp}-{subject}-{strategy}-{os.getpid()}{number}{SUFFIX}" for number in numbers)
    return next(path for path in paths if not path.exists())


def newest(folder: Path, limit: int) -> list[Path]:
    """The captures of a folder, the newest first by their names; none where the folder cannot be read.

    Not by the files' times: whoever reads a capture may fold its journal into it.
    """
    try:
        found = [entry for entry in folder.iterdir() if entry.suffix == SUFFIX]
    except OSError:
        return []
    return sorted(found, key=lambda path: path.name, reverse=True)[:limit]
