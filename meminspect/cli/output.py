"""The only place that writes to stdout and stderr: consoles, documents, progress.

What comes from a checkpoint reaches a terminal through `renderables.texts.safe`, so that no name in a header can drive
it; strings are never taken for rich's markup. Documents are plain ASCII for the same reason.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from meminspect.text import TEXT_LIMIT, shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    Progress = Callable[[int, int], None]

__all__ = [
    "ascii_only",
    "byte_progress",
    "prepare_streams",
    "print_json",
    "print_path",
    "status",
    "stderr",
    "stdout",
]

_PLAIN_STEPS: Final = 4  # lines that a progress bar becomes where there is no terminal

# For terminals and files that are not UTF-8.
_ASCII: Final = {
    "·": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "★": "*",
    "→": "->",
    "µ": "u",
    "±": "+/-",
    "’": "'",
    # What charts and frames are drawn with.
    **dict.fromkeys("█▉▊▋▌▍▎▏", "#"),
    **dict.fromkeys("▁▂▃▄▅▆▇▐▕", "#"),
    **dict.fromkeys("░▒▓", ":"),
    **dict.fromkeys("─━═┄┈╌", "-"),
    **dict.fromkeys("│┃║┆┊", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┿╭╮╰╯╞╡╪", "+"),
    **dict.fromkeys("▾▼", "v"),
    **dict.fromkeys("▲▴", "^"),
    **dict.fromkeys("▶▸●", ">"),
    "✗": "x",
    "✓": "v",
    "≥": ">=",
    "≤": "<=",
}
_ERRORS: Final = "meminspect-ascii"


def prepare_streams() -> None:
    """Make stdout and stderr take every character that we print, whatever their encoding."""
    codecs.register_error(_ERRORS, _transliterate)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the shell closed it; the next file to be opened would otherwise take its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open for as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(char, "?") for char in error.object[error.start : error.end]), error.end


def stdout() -> Console:
    """The console of a verb's answer."""
    return _console(error=False)


def stderr() -> Console:
    """The console of progress and remarks."""
    return _console(error=True)


def _console(*, error: bool) -> Console:
    from rich.console import Console
    from rich.theme import Theme

    from meminspect.renderables.palette import STYLES

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise

    return _Console(stderr=error, theme=Theme(STYLES), highlight=False, markup=False, emoji=False)


def ascii_only(console: Console) -> bool:
    """Whether box and block characters would not arrive."""
    return not console.encoding.lower().startswith("utf")


def print_json(document: Mapping[str, Any]) -> None:
    """Print the one document of a verb under --json."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_path(path: Path) -> None:
    """Print a path for a script to take: as it is on a pipe, escaped on a terminal."""
    text = str(path)
    if sys.stdout.isatty():
        text = shown(text, TEXT_LIMIT)
    sys.stdout.buffer.write(os.fsencode(f"{text}\n"))


def status(message: str) -> None:
    """Print a remark to stderr."""
    from meminspect.renderables.texts import safe

    stderr().print(safe(message), soft_wrap=True)


@contextlib.contextmanager
def byte_progress(label: str) -> Iterator[Progress]:
    """Show on stderr how many bytes are done: a bar on a terminal, a few lines elsewhere, nothing until it is told.

    Yields:
        A function of (bytes done, bytes in all).
    """
    console = stderr()
    if not console.is_terminal:
        yield _plain_progress(label)
        return
    from rich import progress
    from rich.table import Column

    from meminspect.cli.progress_columns import BytesColumn, RateColumn

    whole = Column(no_wrap=True)
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        BytesColumn(table_column=whole),
        RateColumn(table_column=whole),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=console, transient=True, expand=True) as bar:
        task: list[progress.TaskID] = []

        def advance(done: int, total: int) -> None:
            if not task:
                task.append(bar.add_task(shown(label), total=total))
            bar.update(task[0], completed=done)

        yield advance


def _plain_progress(label: str) -> Progress:
    reached = -1

    def advance(done: int, total: int) -> None:
        nonlocal reached
        step = _PLAIN_STEPS * done // total if total else _PLAIN_STEPS
        if step > reached:
            reached = step
            status(f"{label}: {format_bytes(done)} of {format_bytes(total)}, {100 * step // _PLAIN_STEPS} %")

    return advance
