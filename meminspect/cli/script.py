"""`meminspect run -s script`: the user's own code, as without us, and what it took on stderr afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from click.core import ParameterSource

from meminspect.capture.store import CaptureReader
from meminspect.engine.script import SCRIPT
from meminspect.engine.session import Session
from meminspect.errors import CaptureError, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import click

    from meminspect.engine.spec import RunSpec

__all__ = ["exit_status", "refuse_others", "run", "wanted"]

_WITHOUT_MEANING: Final = {
    "init_dtype": "--init-dtype", "read_to": "--read-to", "quantisation": "--quantisation", "model": "--model",
    "max_memory_bytes": "--max-memory", "read_ahead": "--read-ahead", "trust_pickle": "--trust-pickle",
    "forward": "--forward", "force": "--force",
}  # fmt: skip
_SIGNALLED: Final = 128  # what a shell adds to the number of the signal that has ended a program


def wanted(chosen: Sequence[str], words: Sequence[str], entry: str | None) -> bool:
    """Whether -s names a script of the user's own.

    Raises:
        UsageError: it names strategies beside it, or a script is given to a strategy.
    """
    ids = [id_.strip() for names in chosen for id_ in names.split(",") if id_.strip()]
    if SCRIPT not in ids:
        if entry is not None or words:
            what = f"--entry {entry}" if entry is not None else f"'{words[0]}'"
            raise UsageError(f"{what} belongs to -s script", "a checkpoint is named with --ckpt")
        return False
    if set(ids) != {SCRIPT}:
        raise UsageError("-s script runs alone", "meminspect view CAPTURE CAPTURE compares it with strategies")
    return True


def refuse_others(ctx: click.Context, *, has_checkpoint: bool) -> None:
    """Refuse what says how a strategy is to load.

    Raises:
        UsageError: such an option was given.
    """
    for name, option in _WITHOUT_MEANING.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"{option} says nothing to a script", "leave it out: the script decides how it loads")
    for name in ("cold", "warm", "dtype"):
        if not has_checkpoint and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name} is about a checkpoint, and none is named", "name it with --ckpt")


def run(spec: RunSpec, *, as_json: bool) -> bool:
    """Run the script to its end with our standard streams; True where a second Ctrl-C has ended it.

    Args:
        spec: the run.
        as_json: stdout is the document's: what the script prints goes to stderr.
    """
    session = Session(spec, streams=(0, 2 if as_json else 1, 2))
    try:
        _wait(session)
    except KeyboardInterrupt:
        return True
    finally:
        session.cancel()
        session.wait()
    return False


def _wait(session: Session) -> None:
    """Until it ends; the first Ctrl-C is the script's, as it would be without us."""
    try:
        session.join()
    except KeyboardInterrupt:
        _interrupt(session.spec.capture)
        session.join()


def _interrupt(capture: Path) -> None:
    """Send SIGINT to the worker, if it has told which process it is."""
    with contextlib.suppress(CaptureError, OSError), CaptureReader(capture) as reader:
        pid = (reader.fact("environment") or {}).get("pid")
        if pid is not None:
            os.kill(pid, signal.SIGINT)


def exit_status(runs: Sequence[dict[str, Any]]) -> int:
    """The script's own, the first that is not 0 of several; as a shell has it where a signal has ended it."""
    for found in runs:
        status = found["script"]["exit_status"]
        if status is None:
            return ExitCode.FAILED
        if status:
            return int(status) if status > 0 else _SIGNALLED - int(status)
    return ExitCode.OK
