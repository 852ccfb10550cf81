"""Paths that begin as the user has typed, and the checkpoints that were loaded before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.library import default_folder, newest
from meminspect.capture.store import CaptureReader
from meminspect.errors import CaptureError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Candidate", "complete", "recent_checkpoints"]

_MOST: Final = 200  # entries of a folder that are offered
_LOOKED_THROUGH: Final = 40  # captures, of the newest ones
_ENDS: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".gguf", ".json")
_MARKERS: Final = (
    "params.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "lit_model.pth", ".metadata",
)  # fmt: skip


class Candidate(NamedTuple):
    """Something that can be opened, or gone into."""

    path: str  # as it is typed
    note: str  # what it looks like


def complete(text: str) -> list[Candidate]:
    """Folders, and files that may be checkpoints, whose path begins with a text; folders with a checkpoint first."""
    shown_folder = text.rpartition("/")[0]
    found = []
    try:
        expanded = os.path.expanduser(text)  # noqa: PTH111 - a text, which need not be a path yet
        if "/" not in text and expanded != text:
            return [Candidate(f"{text}/", "")]  # somebody's home
        folder, _, start = expanded.rpartition("/")
        with os.scandir(f"{folder}/" if "/" in expanded else ".") as entries:
            for entry in entries:
                if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
                    found += _candidate(entry, f"{shown_folder}/{entry.name}" if "/" in text else entry.name)
    except (OSError, ValueError):  # a text with a NUL is no path
        return []
    return sorted(found, key=lambda candidate: (candidate.note == "", candidate.path))[:_MOST]


def _candidate(entry: os.DirEntry[str], path: str) -> list[Candidate]:
    try:
        if not entry.is_dir():
            return [Candidate(path, "file")] if entry.name.endswith(_ENDS) else []
        marker = next((name for name in _MARKERS if os.path.exists(os.path.join(entry.path, name))), None)  # noqa: PTH110, PTH118
    except OSError:
        return []
    return [Candidate(f"{path}/", "checkpoint" if marker else "")]


def recent_checkpoints(folder: Path | None) -> list[Candidate]:
    """The checkpoints of the newest captures that still exist, each once.

    Args:
        folder: where captures are; the user's folder unless given.
    """
    try:
        captures = newest(folder or default_folder(), _LOOKED_THROUGH)
    except UsageError:
        return []
    paths: dict[str, str] = {}
    for capture in captures:
        try:
            with CaptureReader(capture) as reader:
                checkpoint = reader.fact("checkpoint") or {}
        except CaptureError:
            continue  # the history says what is wrong with it
        path = checkpoint.get("path")
        if isinstance(path, str) and path not in paths and os.path.exists(path):  # noqa: PTH110
            paths[path] = f"{checkpoint.get('layout')}, loaded before"
    return [Candidate(path, note) for path, note in paths.items()]
