"""A file that `torch.save` wrote before torch 1.6, or later with `_use_new_zipfile_serialization=False`.

Format: torch/serialization.py, `_legacy_save` and `_legacy_load`: five pickles (a magic number, the version, facts
about the machine, the object, the keys of its storages), then for each key in that order the number of its elements
(8 bytes) and the elements. Numbers are little-endian on every machine (torch/csrc/serialization.cpp,
`THPStorage_writeFileRaw`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from meminspect.checkpoint.model import Storage
from meminspect.checkpoint.torch_globals import Refused, Truncated
from meminspect.checkpoint.torch_pickle import MAX_PICKLE_BYTES, Pickled, load_pickle
from meminspect.text import shown

if TYPE_CHECKING:
    from meminspect.checkpoint.reading import HeaderFile
    from meminspect.checkpoint.torch_globals import StorageRef

__all__ = ["LEGACY_MAGIC", "LegacyFile"]

# MAGIC_NUMBER 0x1950a86a20f9469cfc6c, pickled with protocol 2 (PROTO 2, LONG1 of 10 bytes)
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_VERSION = 1001
_FIRST_WINDOW_BYTES = 1 << 14  # most of what a small model's pickles take; it grows until a pickle ends in it
_GROWTH = 4  # what was interpreted in vain is a third of the whole
_COUNT = struct.Struct("<q")
_AGAIN = "fetch the file again"


class LegacyFile:
    """An open file: its object, and where the data of each storage begins."""

    unmappable = "is in torch's format from before 1.6, which torch cannot map: save it again to map it"
    big_endian = False

    def __init__(self, file: HeaderFile, index: int) -> None:
        self.file = file
        self.index = index
        _, position = self._pickle(0)
        version, position = self._pickle(position)
        if version.root != _VERSION:
            raise file.refuse("is a torch.save file of a version that does not exist", _AGAIN)
        _, position = self._pickle(position)
        self.pickled, position = self._pickle(position)
        keys, position = self._pickle(position)
        self._offsets = self._walk(keys.root, position)

    def _pickle(self, position: int) -> tuple[Pickled, int]:
        """Interpret the pickle at a position of the file, whose length only its end tells."""
        window = _FIRST_WINDOW_BYTES
        while True:
            nbytes = min(window, self.file.nbytes - position)
            try:
                pickled = load_pickle(self.file.read(position, nbytes), legacy=True)
            except Truncated as error:
                if nbytes < window or window >= MAX_PICKLE_BYTES:
                    raise self.file.refuse(str(error), error.hint) from error
                window = min(window * _GROWTH, MAX_PICKLE_BYTES)
            except Refused as error:
                raise self.file.refuse(str(error), error.hint) from error
            else:
                return pickled, position + pickled.nbytes

    def _walk(self, keys: object, position: int) -> dict[str, int]:
        storages = self.pickled.storages
        if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
            raise self.file.refuse("has a damaged list of storages", _AGAIN)
        offsets: dict[str, int] = {}
        for key in keys:
            storage = storages[key]
            if position + _COUNT.size + storage.nbytes > self.file.nbytes:
                raise self.file.refuse("ends before its tensors do: the download is incomplete", _AGAIN)
            (elements,) = _COUNT.unpack(self.file.read(position, _COUNT.size))
            if elements != storage.elements or key in offsets:
                raise self.file.refuse(f"contradicts itself about the storage '{shown(key)}'", _AGAIN)
            offsets[key] = position + _COUNT.size
            position = offsets[key] + storage.nbytes
        self.spare_bytes = self.file.nbytes - position  # what a second torch.save into the same file has added
        return offsets

    def storage(self, name: str, ref: StorageRef) -> Storage:
        """The place of a storage's bytes.

        Raises:
            CheckpointError: the file does not have it.
        """
        if ref.key not in self._offsets:
            raise self.file.refuse(f"lacks the data of the tensor '{shown(name)}'", _AGAIN)
        return Storage(self.index, ref.key, self._offsets[ref.key], ref.nbytes)
