"""Recognises by its first bytes what a file is when it is not the checkpoint that its name promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meminspect.checkpoint.torch_archive import ZIP_MAGIC
from meminspect.checkpoint.torch_legacy import LEGACY_MAGIC

if TYPE_CHECKING:
    from meminspect.checkpoint.reading import HeaderFile

__all__ = ["HEAD_BYTES", "Foreign", "recognise"]

HEAD_BYTES = 512
_TAR_MAGIC = slice(257, 262)  # POSIX ustar header, field "magic"
_AGAIN = "fetch the file again"
_RENAME = "give it a name that says so, as model.pth"
_CONVERT = "convert it to safetensors, or name another checkpoint"


class Foreign(NamedTuple):
    """What a file is, to follow "is", and what its owner can do."""

    what: str
    hint: str


_SIGNATURES: tuple[tuple[bytes, Foreign], ...] = (
    (b"version https://git-lfs", Foreign("a git-lfs pointer, not the weights", "run `git lfs pull` in its folder")),
    (b"GGUF", Foreign("a GGUF file, as llama.cpp reads", _CONVERT)),
    (
        LEGACY_MAGIC,
        Foreign("a file of torch.save, in its format from before torch 1.6", _RENAME),
    ),
    (b"\x80", Foreign("a pickle, which would have to be executed to be read", "save its state dict as safetensors")),
    (ZIP_MAGIC, Foreign("a zip archive, as torch.save writes", _RENAME)),
    (b"\x93NUMPY", Foreign("a numpy array", _CONVERT)),
    (b"\x89HDF\r\n", Foreign("an HDF5 file, as Keras writes", _CONVERT)),
    (b"\x1f\x8b", Foreign("a gzip archive", "unpack it first")),
    (b"7z\xbc\xaf", Foreign("a 7z archive", "unpack it first")),
    (b"(\xb5/\xfd", Foreign("a zstd archive", "unpack it first")),
)
_PAGES = (b"<!doctype html", b"<html", b"<head")


def recognise(file: HeaderFile) -> Foreign | None:
    """Say what a file is by its first bytes; None when they mean nothing to us.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if file.nbytes == 0:
        return Foreign("an empty file", _AGAIN)
    head = file.read(0, min(file.nbytes, HEAD_BYTES))
    for signature, foreign in _SIGNATURES:
        if head.startswith(signature):
            return foreign
    text = head.lstrip().lower()
    if text.startswith(_PAGES):
        return Foreign("a web page saved under a checkpoint's name", _AGAIN)
    if text.startswith(b"<?xml"):
        return Foreign("an XML document, often a storage service's error", _AGAIN)
    if text.startswith(b"{"):
        return Foreign("a JSON document", "name the weights themselves")
    if head[_TAR_MAGIC] == b"ustar":
        return Foreign("a tar archive", "unpack it first")
    if not head.strip(b"\0"):
        return Foreign("filled with zeros, as an interrupted download leaves", _AGAIN)
    return None
