"""The command line: it alone owns argv, stdout, stderr and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.cli.diagnostics import Failure

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the arguments behind the program's name; the process's own unless given.

    Returns:
        The exit status: a member of ExitCode, or 141 when the reader of stdout has gone.
    """
    from meminspect.cli import application, diagnostics, output

    arguments = list(sys.argv[1:] if argv is None else argv)
    output.prepare_streams()
    try:
        status = application.root.main(arguments, prog_name=application.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return application.PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where everything ends
        return _report(diagnostics.failure_of(error), as_json=diagnostics.wants_json(arguments))
    if status == application.PIPE_CLOSED:
        _abandon_stdout()
    return int(status or 0)


def _report(failure: Failure, *, as_json: bool) -> int:
    from meminspect.cli import diagnostics, output

    with contextlib.suppress(OSError):  # where a stream cannot be written, the exit code is all that is left
        if failure.trace:
            sys.stderr.write(failure.trace)
        if not as_json or failure.kind == "system":  # it may be stdout itself that fails
            sys.stderr.write(diagnostics.text(failure))
    try:
        if as_json:
            output.print_json(diagnostics.error_document(failure))
        sys.stdout.flush()
    except OSError:
        _abandon_stdout()
    return failure.exit_code


def _abandon_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes stdout at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
