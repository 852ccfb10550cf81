"""The user's own script or function, as a run takes it: named, checked, and otherwise left alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meminspect.errors import UsageError
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SCRIPT", "Script", "script_of"]

SCRIPT: Final = "script"
"""What stands for a strategy where the loading code is the user's own."""

_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_ENTRY: Final = re.compile(f"{_DOTTED}:{_DOTTED}")
_HOW: Final = "meminspect run -s script -- load.py ARGS…"


@dataclass(frozen=True, slots=True)
class Script:
    """What to run.

    Args:
        path: of a script, as the user names it; empty where `entry` names a function.
        entry: "module:function"; empty where `path` names a script.
        arguments: what the code finds in `sys.argv` behind its name.
        folder: the current one, in which it runs.
    """

    path: str
    entry: str
    arguments: tuple[str, ...]
    folder: str

    @property
    def name(self) -> str:
        """In a word what is run, for a file's name."""
        return self.entry.replace(":", ".") or Path(self.path).name

    @property
    def command(self) -> list[str]:
        """As a shell has it, without the interpreter."""
        return [self.entry or self.path, *self.arguments]

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> Script:
        """The inverse of `dataclasses.asdict`."""
        return Script(**{**fields, "arguments": tuple(fields["arguments"])})


def script_of(words: Sequence[str], entry: str | None) -> Script:
    """What the words behind -- and --entry name.

    Args:
        words: a script and its arguments; with an entry all are arguments.
        entry: "module:function", if one is named.

    Raises:
        UsageError: nothing is named, or what is named is not there.
    """
    try:
        folder = os.getcwd()  # noqa: PTH109 - sys.path is text
    except OSError as error:
        raise UsageError("the current folder is gone", "change to another") from error
    if entry is not None:
        if _ENTRY.fullmatch(entry) is None:
            raise UsageError(f"--entry: '{shown(entry)}' is not module:function", "as --entry package.module:load")
        return Script("", entry, tuple(words), folder)
    if not words:
        raise UsageError("-s script runs code of yours, and none is named", f"{_HOW}, or --entry module:function")
    said = shown(words[0], 160, keep_end=True)
    if os.path.isdir(words[0]):  # noqa: PTH112 - the empty text is no folder
        raise UsageError(f"{said} is a folder, not a script", "name the file in it, or --entry module:function")
    if not os.path.exists(words[0]):  # noqa: PTH110
        raise UsageError(f"there is no script {said}", _HOW)
    if not os.access(words[0], os.R_OK):
        raise UsageError(f"{said} may not be read by this user", "change its permissions or run as its owner")
    return Script(words[0], "", tuple(words[1:]), folder)
