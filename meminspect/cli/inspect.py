"""`meminspect inspect`: what a checkpoint is."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import click

from meminspect.analysis.subject import read_subject
from meminspect.cli import options, output
from meminspect.errors import CheckpointError
from meminspect.renderables.cards import checkpoint_card, counted, machine_card, warnings_card
from meminspect.renderables.texts import heading, safe, table
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import task_for
from meminspect.units import format_bytes, format_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from meminspect.analysis.subject import Subject
    from meminspect.architectures import Architecture
    from meminspect.checkpoint import Checkpoint

__all__ = ["command"]

_FILES = 12
_TENSORS = 8
_TIES = 6


@click.command()
@options.checkpoint_options
@options.decimal_option
@options.json_option
def command(ckpt: Path | None, *, demo: bool, as_json: bool) -> None:
    """What a checkpoint is: layout, files, dtypes, tensors, tied and odd ones, file system.

    Only headers are read: no tensor is loaded and no pickle is executed.
    """
    checkpoint = options.open_checkpoint(ckpt, demo=demo)
    subject = read_subject(checkpoint, *_recognise(checkpoint))
    if as_json:
        machine = subject.machine.document()
        output.print_json({"schema": "meminspect.inspect/1", "checkpoint": subject.document, "machine": machine})
        return
    console = output.stdout()
    for renderable in _card(subject):
        console.print(renderable)


def _recognise(checkpoint: Checkpoint) -> tuple[Architecture | None, str]:
    """The architecture and what is to be said about it; a checkpoint that cannot be loaded can still be looked at."""
    try:
        task = task_for(checkpoint, LoadOptions())
    except CheckpointError as error:
        return None, error.message
    return task.architecture, task.note


def _card(subject: Subject) -> Iterator[RenderableType]:
    yield from checkpoint_card(subject)
    yield machine_card(subject.machine)
    yield from warnings_card(subject)
    yield from _files(subject)
    yield from _dtypes(subject)
    yield from _largest(subject.checkpoint)
    yield from _tied(subject.checkpoint)


def _section(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left_out: str = ""
) -> Iterator[RenderableType]:
    if rows:
        yield ""
        yield heading(title)
        yield table(columns, rows)
    if left_out:
        yield safe(left_out, "quiet")


def _more(total: int, limit: int, thing: str) -> str:
    return f"… and {counted(total - limit, f'more {thing}')}: see --json" if total > limit else ""


def _files(subject: Subject) -> Iterator[RenderableType]:
    files = subject.document["files"]
    rows = [
        (file["name"], format_bytes(file["bytes"]), f"{file['tensors']:,}", _cached(file)) for file in files[:_FILES]
    ]
    yield from _section("Files", ("name", "size", "tensors", "in cache"), rows, _more(len(files), _FILES, "file"))
    for reason in dict.fromkeys(file["cached_reason"] for file in files if file["cached_reason"]):
        yield safe(f"in cache: not available, {reason}", "quiet")


def _cached(file: dict[str, float | None]) -> str:
    fraction = file["cached_fraction"]
    return "–" if fraction is None else format_share(fraction)


def _dtypes(subject: Subject) -> Iterator[RenderableType]:
    dtypes = sorted(subject.document["dtypes"].items(), key=lambda item: -item[1]["bytes"])
    rows = [(name, format_bytes(sums["bytes"]), f"{sums['tensors']:,}") for name, sums in dtypes]
    yield from _section("Dtypes", ("dtype", "size", "tensors"), rows)


def _largest(checkpoint: Checkpoint) -> Iterator[RenderableType]:
    # Of tensors that are alike, which may be a million, none but the first few can be shown.
    shown = (tensor for tensors in checkpoint.alike for tensor in tensors[:_TENSORS] if tensor.is_first)
    largest = heapq.nsmallest(_TENSORS, shown, key=lambda one: (-one.whole_nbytes, one.storage.file, one.file_offset))
    rows = [
        (
            tensor.name,
            " × ".join(map(str, tensor.whole_shape)) or "scalar",
            tensor.dtype,
            format_bytes(tensor.whole_nbytes),
        )
        for tensor in largest
    ]
    yield from _section("Largest tensors", ("name", "shape", "dtype", "size"), rows)


def _tied(checkpoint: Checkpoint) -> Iterator[RenderableType]:
    rows = [(" = ".join(names),) for names in checkpoint.tied[:_TIES]]
    left_out = _more(len(checkpoint.tied), _TIES, "group")
    yield from _section("Tied tensors", ("names of one memory",), rows, left_out)
