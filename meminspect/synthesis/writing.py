"""Writes a planned checkpoint: into a folder beside its own, which takes its name once everything is there."""

from __future__ import annotations

import json
import secrets
import shutil
from typing import TYPE_CHECKING

from meminspect.errors import UsageError
from meminspect.synthesis.choosing import namings_for
from meminspect.synthesis.layouts import LAYOUTS
from meminspect.synthesis.output import Output
from meminspect.synthesis.values import DTYPES
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.synthesis.plan import Plan, SynthesisSpec

    Progress = Callable[[int, int], None]

__all__ = ["synthesise"]


def synthesise(spec: SynthesisSpec, progress: Progress | None = None) -> Path:
    """Write a checkpoint as the real tools write it; return its folder.

    Args:
        spec: what to write, and where.
        progress: told (bytes of tensors written, bytes in all) after every piece of up to 1 MiB.

    Raises:
        UsageError: what is asked for does not exist, the folder is not empty, or the disk is too small or fails.
            Nothing is left behind then, nor after any other exception.
    """
    if spec.architecture.naming not in namings_for(spec.architecture.id, spec.layout):
        raise UsageError(f"the layout '{spec.layout}' does not have the '{spec.architecture.naming}' tensor names")
    _check_numbers(spec)
    plan = LAYOUTS[spec.layout].plan(spec)
    try:
        out = spec.out.resolve()
        _check_folder(spec.out, out)
        _check_space(out, plan, sparse=spec.sparse)
        _write(plan, out, sparse=spec.sparse, progress=progress)
    except OSError as error:
        raise UsageError(f"cannot write {spec.out}: {error.strerror or error}") from error
    return spec.out


def _check_numbers(spec: SynthesisSpec) -> None:
    if spec.dtype not in DTYPES:
        raise UsageError(f"cannot synthesise the dtype '{spec.dtype}'", f"choose from {', '.join(DTYPES)}")
    if spec.shards < 1:
        raise UsageError(f"{spec.shards} is no number of shards", "ask for 1 or more")


def _check_folder(named: Path, out: Path) -> None:
    if out.is_mount():
        raise UsageError(f"{named} is a mount point", "name a folder inside it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{named} exists and is not a folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{named} exists and is not empty", "name another folder, or remove this one first")


def _check_space(out: Path, plan: Plan, *, sparse: bool) -> None:
    folder = next(parent for parent in out.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    needed = plan.header_nbytes + (0 if sparse else plan.nbytes)
    if needed > free:
        raise UsageError(
            f"the checkpoint takes {format_bytes(needed)} and {folder} has {format_bytes(free)} free",
            "" if sparse else "--sparse writes one of that size that takes no disk, all zeros",
        )


def _write(plan: Plan, out: Path, *, sparse: bool, progress: Progress | None) -> None:
    total, done = plan.nbytes, 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    partial = out.with_name(f"{out.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        for file in plan.files:
            with Output(partial / file.name, sparse=sparse, advance=advance) as output:
                file.write(output)
        for name, content in plan.texts.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.rename(out)  # POSIX: an empty folder is replaced, any other is an error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
