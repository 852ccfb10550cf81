"""`meminspect export`: a capture in another format."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from meminspect.capture.store import CaptureReader
from meminspect.engine.session import recover
from meminspect.errors import CaptureError
from meminspect.exporters import EXPORTERS, Exporter

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
    recover(capture)
    exporter = EXPORTERS[exporter_id]
    with CaptureReader(capture) as reader:
        if out is None:
            exporter.write(reader, sys.stdout)
            return
        try:
            _write(exporter, reader, out)
        except OSError as error:
            raise CaptureError(f"cannot write {out}: {error.strerror}", "name another file with -o") from error


def _write(exporter: Exporter, reader: CaptureReader, out: Path) -> None:
    out = out.resolve()  # what a link leads to, not the link
    if out.exists() and not out.is_file():  # a device or a pipe: /dev/stdout is to be written to, not replaced
        with out.open("w", encoding="utf-8", newline="") as file:
            exporter.write(reader, file)
        return
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            exporter.write(reader, file)
        partial.replace(out)  # a reader of `out` sees the old file or the new one, never half of one
    finally:
        partial.unlink(missing_ok=True)
