"""The exceptions that a user can meet, and the exit codes they end in.

```
MeminspectError
├── UsageError              the command line asks for something impossible                    → 2
├── CheckpointError         the checkpoint is absent, damaged, hostile or of an unknown kind  → 2
│   └── SeveralCheckpointsError    a folder holds several, and one has to be named            → 2
├── CaptureError            a capture file cannot be read or written                          → 2
├── StreamError             a checkpoint cannot be loaded into a model by `meminspect.stream` → 4
└── RunError                the machinery around a run broke (not the run itself)             → 4
```
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "CaptureError",
    "CheckpointError",
    "ExitCode",
    "MeminspectError",
    "RunError",
    "SeveralCheckpointsError",
    "StreamError",
    "UsageError",
]


class ExitCode(enum.IntEnum):
    """What the command's exit status says."""

    OK = 0
    USAGE = 2
    OUT_OF_MEMORY = 3
    FAILED = 4
    BUDGET_EXCEEDED = 5
    INTERRUPTED = 130


class MeminspectError(Exception):
    """Anything that ends a command with one line for the user.

    Args:
        message: one line that names the file or option concerned.
        hint: what to do about it, in one sentence; empty when the message says it all.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MeminspectError):
    """The command line asks for something impossible."""

    exit_code = ExitCode.USAGE


class CheckpointError(MeminspectError):
    """The checkpoint is absent, damaged, hostile or of a kind that is not supported."""

    exit_code = ExitCode.USAGE


class SeveralCheckpointsError(CheckpointError):
    """A folder holds several checkpoints, of which the user has to name one.

    Args:
        message: what it holds.
        hint: how to name one.
        choices: the path of each, and what it is in a word.
    """

    def __init__(self, message: str, hint: str = "", choices: Mapping[Path, str] | None = None) -> None:
        super().__init__(message, hint)
        self.choices = choices or {}


class CaptureError(MeminspectError):
    """A capture file cannot be read or written."""

    exit_code = ExitCode.USAGE


class RunError(MeminspectError):
    """The machinery around a run broke; what the run itself did is an outcome, not an exception."""

    exit_code = ExitCode.FAILED


class StreamError(MeminspectError, RuntimeError):
    """A checkpoint cannot be loaded into this model; a RuntimeError, as what `load_state_dict` raises."""
