"""`meminspect view`: the app on saved captures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from meminspect.cli.app import open_app
from meminspect.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]

_MOST: Final = 4  # what a screen has room for


@click.command()
@click.argument("captures", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(captures: Sequence[Path]) -> int:
    """Open captures in the app: one with all its details, two to four beside each other."""
    if len(captures) > _MOST:
        raise UsageError(f"{len(captures)} captures are more than can be compared at once", f"name {_MOST} at most")
    from meminspect.engine.session import recover

    for capture in captures:
        recover(capture)  # one that cannot be read is said before the screen is taken over
    return open_app(captures=captures)
