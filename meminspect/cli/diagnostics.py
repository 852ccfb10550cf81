"""From any exception to one line for the user, one document for a machine, and an exit code."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, NamedTuple

import click

from meminspect.errors import ExitCode, MeminspectError
from meminspect.text import refused_by_system, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Failure", "error_document", "failure_of", "text", "wants_json"]

_LINE_LIMIT = 1000  # characters; a message is written for one line, this only bounds what a hostile name can do


class Failure(NamedTuple):
    """How a command ends when it does not end well."""

    kind: str  # a slug: usage, checkpoint, capture, run, system, interrupted, internal
    message: str
    hint: str
    exit_code: ExitCode
    trace: str = ""  # of a defect of ours


def failure_of(error: BaseException) -> Failure:
    """Say what an exception means to the user. Every text comes back as one printable line."""
    if isinstance(error, MeminspectError):
        return Failure(_slug(error), _line(error.message), _line(error.hint), error.exit_code)
    if isinstance(error, click.UsageError):
        return Failure("usage", _line(error.format_message()).rstrip("."), _help_hint(error), ExitCode.USAGE)
    if isinstance(error, click.ClickException):
        return Failure("usage", _line(error.format_message()), "", ExitCode.USAGE)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Failure("interrupted", "interrupted", "", ExitCode.INTERRUPTED)
    if isinstance(error, OSError):
        return Failure("system", _line(refused_by_system(error)), "", ExitCode.FAILED)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    hint = "this is a defect of meminspect: please report it with the lines above"
    return Failure("internal", _line(message), hint, ExitCode.FAILED, trace)


def text(failure: Failure) -> str:
    """What a person reads on stderr."""
    if failure.kind == "interrupted":
        return "meminspect: interrupted\n"
    hint = f"hint: {failure.hint}\n" if failure.hint else ""
    return f"meminspect: error: {failure.message}\n{hint}"


def error_document(failure: Failure) -> dict[str, str]:
    """The document that takes the place of a verb's own under --json."""
    return {
        "schema": "meminspect.error/1",
        "error": failure.kind,
        "message": failure.message,
        "hint": failure.hint,
    }


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a document is expected, as far as can be told from a command line that may not even parse."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _slug(error: MeminspectError) -> str:
    """CheckpointError → checkpoint."""
    words = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", words).lower()


def _help_hint(error: click.UsageError) -> str:
    return f"{error.ctx.command_path} --help lists what it takes" if error.ctx is not None else ""


def _line(text: str) -> str:
    return shown(" ".join(text.split()), _LINE_LIMIT)
