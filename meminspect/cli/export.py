"""`meminspect export`: a capture in another format."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from meminspect.capture.store import CaptureReader
from meminspect.engine.session import conclude
from meminspect.exporters import EXPORTERS
from meminspect.exporters.files import write_file

__all__ = ["command"]


@click.command()
@click.argument("capture", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "exporter_id",
    type=click.Choice(list(EXPORTERS)),
    required=True,
    help="; ".join(f"{exporter.id}: {exporter.summary}" for exporter in EXPORTERS.values()) + ".",
)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), metavar="FILE", help="[default: stdout]")
def command(capture: Path, exporter_id: str, out: Path | None) -> None:
    """Write a capture in another format, to stdout or a file."""
    exporter = EXPORTERS[exporter_id]
    with CaptureReader(capture) as reader:
        conclude(reader)
        if out is None:
            exporter.write(reader, sys.stdout if exporter.is_text else sys.stdout.buffer)
            return
        write_file(exporter, reader, out)
