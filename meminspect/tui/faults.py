"""From any exception to a message for the user; what is our own fault leaves its traceback in a log file."""

from __future__ import annotations

import datetime
import traceback
from typing import TYPE_CHECKING, NamedTuple

from meminspect.errors import MeminspectError
from meminspect.text import TEXT_LIMIT, refused_by_system, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Fault", "fault_of", "log_fault", "log_path"]


class Fault(NamedTuple):
    """What went wrong in one printable line, and what to do about it."""

    message: str
    hint: str


def fault_of(error: BaseException, doing: str) -> Fault:
    """What a user is told of an exception.

    Args:
        error: what was raised.
        doing: what was being done, as it follows 'while'.
    """
    if isinstance(error, MeminspectError):
        return Fault(shown(error.message, TEXT_LIMIT), shown(error.hint, TEXT_LIMIT))
    if isinstance(error, OSError):
        return Fault(shown(refused_by_system(error), TEXT_LIMIT), f"it happened while {shown(doing, TEXT_LIMIT)}")
    return log_fault(error, doing)


def log_fault(error: BaseException, doing: str) -> Fault:
    """Append a defect's traceback to the log, and say where that is."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = f"internal error while {shown(doing, TEXT_LIMIT)}: {shown(words, 300)}"
    path = log_path()
    if path is None:
        return Fault(message, "this is a defect of meminspect: please report it")
    now = datetime.datetime.now().isoformat(timespec="seconds")
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{now} while {doing}\n{trace}\n")
    except OSError:
        return Fault(message, "this is a defect of meminspect: please report it")
    return Fault(message, f"this is a defect of meminspect: please report it with the end of {path}")


def log_path() -> Path | None:
    """Where defects are written down; None where there is no home."""
    import platformdirs

    try:
        folder = platformdirs.user_log_path("meminspect")
    except RuntimeError:
        return None
    return folder / "app.log" if folder.is_absolute() else None
