"""`meminspect demo`: the demo checkpoint."""

from __future__ import annotations

import click

from meminspect.cli import options, output
from meminspect.units import format_bytes

__all__ = ["command"]


@click.command()
@click.option("--remove", is_flag=True, help="Remove it, and say how many bytes that freed.")
def command(*, remove: bool) -> None:
    """Write the demo checkpoint where it is not there yet, and print its path.

    It is a LLaMA of 250 million random parameters, in the cache folder; --demo stands for it in every other command.
    """
    from meminspect.synthesis import remove_demo

    if not remove:
        output.print_path(options.demo_path())
        return
    freed = remove_demo()
    output.stdout().print(f"removed the demo: {format_bytes(freed)} freed" if freed else "there was no demo: 0 B freed")
