"""Puts a checkpoint together from what its files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.model import Checkpoint
from meminspect.checkpoint.reading import refusal
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from meminspect.checkpoint.reading import Part

__all__ = ["assembled"]


def assembled(
    path: Path,
    layout: str,
    parts: Sequence[Part],
    config: Mapping[str, object] | None,
    warnings: Iterable[str] = (),
    *,
    parallel_files: bool = False,
) -> Checkpoint:
    """The checkpoint of one or more files, which must hold their state dicts under the same entry.

    Raises:
        CheckpointError: they do not.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.entry != first.entry:
            raise refusal(
                part.file.path,
                f"has its state dict elsewhere ({_place(part)}) than {shown(first.file.name)} ({_place(first)})",
                "keep each checkpoint in a folder of its own",
            )
    return Checkpoint(
        path,
        layout,
        tuple(part.file for part in parts),
        tuple(tensor for part in parts for tensor in part.tensors),
        config,
        parallel_files,
        # Files of one checkpoint often have the same to say.
        tuple(dict.fromkeys((*warnings, *(warning for part in parts for warning in part.warnings)))),
        first.entry,
        any(part.mixed for part in parts),
        tuple(tensor for part in parts for tensor in part.beside),
        tuple(dict.fromkeys(name for part in parts for name in part.untrusted)),
    )


def _place(part: Part) -> str:
    return f"entry {'.'.join(map(shown, part.entry))}" if part.entry else "at the top"
