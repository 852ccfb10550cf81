"""Starting the app from the command line: only where there is a terminal, and with its faults told on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from meminspect.errors import ExitCode, RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meminspect.architectures.own import OwnModel
    from meminspect.sampling.interpreter import Interpreter

__all__ = ["has_terminal", "open_app"]


def has_terminal() -> bool:
    """Whether there is somebody to look and to type, at a terminal that can do more than scroll.

    Standard error counts as well: it is what Textual draws on.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(stream.isatty() for stream in streams) and os.environ.get("TERM") not in ("dumb", "", None)


def open_app(
    ckpt: Path | None = None,
    captures: Sequence[Path] = (),
    *,
    python: Interpreter | None = None,
    model: OwnModel | None = None,
    trust_pickle: bool = False,
) -> int:
    """Run the app to its end.

    Args:
        ckpt: the checkpoint to begin with.
        captures: captures to show instead.
        python: what runs load in, unless the user chooses another; None for our own interpreter.
        model: the user's own model that they load into; None for what a checkpoint is recognised as.
        trust_pickle: whether they trust pickles.

    Raises:
        UsageError: this is no terminal.
        RunError: a defect of ours ended it.
    """
    if not has_terminal():
        raise UsageError(
            "the app needs a terminal", "meminspect plan and meminspect run do the same for pipes and scripts"
        )
    from meminspect.tui.app import MeminspectApp

    app = MeminspectApp(ckpt, captures, python=python, model=model, trust_pickle=trust_pickle)
    status = app.run()
    if app.fault is not None:
        raise RunError(app.fault.message, app.fault.hint)
    return int(status or ExitCode.OK)
