"""`meminspect view`: the app on saved captures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meminspect.cli.app import open_app
from meminspect.cli.environment import decimal_option
from meminspect.errors import UsageError
from meminspect.tui.sizes import MOST_PANELS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]


@click.command()
@click.argument("captures", nargs=-1, required=True, type=click.Path(path_type=Path))
@decimal_option
def command(captures: Sequence[Path]) -> int:
    """Open captures in the app: one with all its details, two to four beside each other."""
    if len(captures) > MOST_PANELS:
        raise UsageError(
            f"{len(captures)} captures are more than can be compared at once", f"name {MOST_PANELS} at most"
        )
    from meminspect.engine.session import recover

    for capture in captures:
        recover(capture)  # one that cannot be read is said before the screen is taken over
    return open_app(captures=captures)
