"""`meminspect synth`: a checkpoint of any size, as the real tools write it."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint.strict_json import read_object
from meminspect.cli import options, output
from meminspect.errors import UsageError
from meminspect.renderables.cards import counted
from meminspect.renderables.texts import safe
from meminspect.synthesis import DTYPES, LAYOUTS, SynthesisSpec, architecture_for, synthesise
from meminspect.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["command"]

_CONFIG_LIMIT: Final = 1 << 20  # bytes; a config.json has a few thousand
_POSITIVE: Final = click.IntRange(min=1)
_PARAMETERS: Final = 250_000_000


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--arch", type=click.Choice(list(ARCHITECTURES)), default=next(iter(ARCHITECTURES)), show_default=True)
@click.option(
    "--params", callback=options.as_count, metavar="COUNT", help="About how many parameters, as 1.3B.  [default: 250M]"
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Exactly this model instead: its params.json or config.json.",
)
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="safetensors", show_default=True)
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Files, or slices of meta's.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float16", show_default=True)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Of the random weights."
)
@click.option("--sparse", is_flag=True, help="All zeros, as holes that take no disk.")
@options.decimal_option
def command(
    out: Path,
    *,
    arch: str,
    params: int | None,
    config: Path | None,
    layout: str,
    shards: int,
    dtype: str,
    seed: int,
    sparse: bool,
) -> None:
    """Write a checkpoint of any size into the folder OUT, in bounded memory.

    The same seed, dtype and names give the same weights in every layout.
    """
    architecture = architecture_for(arch, layout, parameters=_count(params, config), config=_config(config))
    spec = SynthesisSpec(out, architecture, layout, dtype, shards, seed, sparse)
    started_s = time.monotonic()
    with output.byte_progress(f"writing {out.name or out}") as progress:
        synthesise(spec, progress)
    elapsed_s = time.monotonic() - started_s
    files = [file for file in out.iterdir() if file.is_file()]
    nbytes = sum(file.stat().st_size for file in files)
    words = (
        f"wrote {arch} of {format_count(architecture.elements)} parameters to {out}",
        f"{counted(len(files), 'file')}, {format_bytes(nbytes)}{' (sparse)' if sparse else ''}",
        f"in {format_duration(elapsed_s)}",
    )
    console = output.stdout()
    console.print(safe(", ".join(words)), soft_wrap=True)
    console.print(safe(f"try: meminspect plan --ckpt {shlex.quote(str(out))}"), soft_wrap=True)


def _count(params: int | None, config: Path | None) -> int:
    if params is not None and config is not None:
        raise UsageError("--params and --config both say how large the model is", "leave one of them out")
    return _PARAMETERS if params is None else params


def _config(path: Path | None) -> Mapping[str, object] | None:
    return None if path is None else read_object(path, _CONFIG_LIMIT)
