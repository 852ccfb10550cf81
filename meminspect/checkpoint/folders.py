"""Folders of checkpoints: what lies there, which links may be followed, and the config beside the weights."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from typing import TYPE_CHECKING

from meminspect.checkpoint.reading import PATH_LIMIT, open_header, os_refusal, refusal
from meminspect.checkpoint.strict_json import read_object
from meminspect.errors import CheckpointError, SeveralCheckpointsError
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["describe_folder", "file_names", "member", "read_config", "several", "snapshot", "still_there"]

MAX_ENTRIES = 100_000  # a folder of a checkpoint holds some hundreds; this one may be anybody's home
MAX_CONFIG_BYTES = 16 << 20
_MAX_REVISION_BYTES = 100  # a hash of 40 letters
_LISTED = 12  # checkpoints of one folder that are named

_FOREIGN_NAMES = ((r".+\.(h5|keras|msgpack|onnx|npz|index)", "a checkpoint of another framework"),)


def file_names(folder: Path) -> list[str]:
    """Sorted names of what lies in a folder, folders left out; empty for a path that is not a folder.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in itertools.islice(entries, MAX_ENTRIES) if not _is_folder(entry))
    except OSError as error:
        raise os_refusal(folder, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that loops: reading it will say so
        return False


def still_there(folder: Path, names: Sequence[str]) -> str:
    """The first of the names that a layout finds in a folder which it has claimed.

    Raises:
        CheckpointError: there is none, since the folder has changed in between.
    """
    if not names:
        raise refusal(folder, "changed while it was being read", "wait until the download or save has finished")
    return names[0]


def member(folder: Path, name: str) -> Path:
    """The path of a file of a checkpoint's folder, links checked.

    A link may stay inside the folder or lead into the `blobs` of the same repository, which is how a Hugging Face
    cache is built (https://huggingface.co/docs/huggingface_hub/guides/manage-cache: `snapshots/<revision>/file` →
    `../../blobs/<hash>`).

    Raises:
        CheckpointError: the link leads elsewhere or nowhere.
    """
    path = folder / name
    try:
        if not path.is_symlink():
            return path
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # Python before 3.13 raises RuntimeError for a loop
        raise refusal(path, "is a link that cannot be followed") from error
    if target.is_relative_to(root) or any(target.is_relative_to(blobs) for blobs in _blobs(root)):
        return path
    raise refusal(
        path,
        f"is a link out of the checkpoint's folder, to {shown(str(target))}",
        "name the folder where the files really are",
    )


def _blobs(root: Path) -> list[Path]:
    return [above.parent / "blobs" for above in root.parents if above.name == "snapshots"][:1]


def read_config(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, object] | None, tuple[str, ...]]:
    """The first of these config files that the folder holds, and a warning where it cannot be used."""
    for name in names:
        if (folder / name).is_file():
            try:
                return read_object(member(folder, name), MAX_CONFIG_BYTES), ()
            except CheckpointError as error:
                return None, (f"{error.message}; going on without it",)
    return None, ()


def snapshot(path: Path) -> Path:
    """For a repository of a Hugging Face cache its snapshot: the one that `main` refers to, or the only one.

    Raises:
        SeveralCheckpointsError: it has several, and nothing says which.
        CheckpointError: it has none.
    """
    folder = path / "snapshots"
    if not (path / "blobs").is_dir() or not folder.is_dir():
        return path
    with os.scandir(folder) as entries:
        # A revision is a folder itself: a link would lead out of the repository.
        revisions = sorted(
            entry.name for entry in itertools.islice(entries, MAX_ENTRIES) if entry.is_dir(follow_symlinks=False)
        )
    main = path / "refs" / "main"
    if main.is_file():
        with open_header(main) as file:
            revision = file.read(0, min(file.nbytes, _MAX_REVISION_BYTES)).decode("ascii", "replace").strip()
        revisions = [revision] if revision in revisions else revisions
    if not revisions:
        raise refusal(path, "is a repository of a Hugging Face cache without a snapshot", "finish the download")
    if len(revisions) > 1:
        raise several(path, {f"snapshots/{revision}": "snapshot" for revision in revisions})
    return folder / revisions[0]


def several(folder: Path, found: Mapping[str, str]) -> SeveralCheckpointsError:
    """The error for a folder of several checkpoints.

    Args:
        folder: the folder.
        found: for each the name within it, and what it is in a word.
    """
    words = listed((f"{shown(name)} ({what})" for name, what in found.items()), _LISTED)
    error = refusal(folder, f"holds {len(found):,} checkpoints: {words}")
    choices = {folder / name: what for name, what in found.items()}
    example = shown(shlex.quote(str(next(iter(choices)))), PATH_LIMIT)
    return SeveralCheckpointsError(error.message, f"name one of them, as in --ckpt {example}", choices)


def describe_folder(folder: Path) -> CheckpointError:
    """The error for a folder that no layout claims: what it holds instead, where to look."""
    names = file_names(folder)
    for pattern, what in _FOREIGN_NAMES:
        found = next((name for name in names if re.fullmatch(pattern, name, re.DOTALL)), None)
        if found is not None:
            return refusal(
                folder,
                f"holds {what} ({shown(found)}), which is not a layout that is read yet",
                "convert it to safetensors",
            )
    if (folder / "original").is_dir():
        return refusal(folder, "holds no weights itself", "name its folder original/")
    return refusal(
        folder,
        "holds no checkpoint" if names else "is empty",
        "it needs *.safetensors, or files of torch.save (*.pth, *.pt, *.bin, *.ckpt)",
    )
