"""A file that `torch.save` has written since torch 1.6: a zip archive of a pickle and one record for each storage.

Format: torch/serialization.py, `_save` and `_load`; torch/include/caffe2/serialize/inline_container.h for the archive
(`NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`, nothing compressed, data aligned to 64 bytes by padding in the
local header's extra field).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.checkpoint.model import Storage
from meminspect.checkpoint.torch_globals import Refused
from meminspect.checkpoint.torch_pickle import MAX_PICKLE_BYTES, load_pickle
from meminspect.checkpoint.zip_directory import STORED, Record, read_directory, read_record, record_offsets
from meminspect.text import listed, shown

if TYPE_CHECKING:
    from meminspect.checkpoint.reading import HeaderFile
    from meminspect.checkpoint.torch_globals import StorageRef

__all__ = ["ZIP_MAGIC", "TorchArchive"]

ZIP_MAGIC = b"PK\3\4"
_PICKLE = "/data.pkl"
_MAX_BYTEORDER_BYTES = 16
_AGAIN = "fetch the file again"
_UNMAPPABLE = "is big-endian: turning its bytes round copies every page that is mapped"


class TorchArchive:
    """An open archive: its object, and where the data of each storage begins."""

    def __init__(self, file: HeaderFile, index: int) -> None:
        self.file = file
        self.index = index
        directory = read_directory(file)
        self._records = directory.records
        self._folder = _folder(file, self._records)
        self._offsets = record_offsets(file, directory)
        self.big_endian = self._is_big_endian()
        self.unmappable = _UNMAPPABLE if self.big_endian else ""
        try:
            self.pickled = load_pickle(self._content("data.pkl", MAX_PICKLE_BYTES) or b"")
        except Refused as error:
            raise file.refuse(str(error), error.hint) from error

    def _content(self, name: str, max_bytes: int) -> bytes | None:
        """What a small record holds; None where there is no such record."""
        record = self._records.get(f"{self._folder}/{name}")
        return None if record is None else read_record(self.file, record, self._offsets[record.name], max_bytes)

    def _is_big_endian(self) -> bool:
        order = self._content("byteorder", _MAX_BYTEORDER_BYTES)
        if order not in (None, b"little", b"big"):
            raise self.file.refuse("does not say its byte order", _AGAIN)
        return order == b"big"

    @property
    def spare_bytes(self) -> int:
        """Bytes of records that no storage of the pickle is in."""
        data = f"{self._folder}/data/"
        used = {f"{data}{key}" for key in self.pickled.storages}
        return sum(
            record.stored for name, record in self._records.items() if name.startswith(data) and name not in used
        )

    def storage(self, name: str, ref: StorageRef) -> Storage:
        """The place of a storage's bytes.

        Raises:
            CheckpointError: its record is missing, compressed or of another size.
        """
        record = self._records.get(f"{self._folder}/data/{ref.key}")
        if record is None:
            raise self.file.refuse(f"lacks the data of the tensor '{shown(name)}'", _AGAIN)
        if record.method != STORED:
            raise self.file.refuse(
                f"is a compressed archive: '{shown(record.name)}' cannot be read in place", "save it with torch.save"
            )
        if record.nbytes != ref.nbytes:
            raise self.file.refuse(
                f"holds {record.nbytes:,} bytes for the tensor '{shown(name)}' and says {ref.nbytes:,}", _AGAIN
            )
        return Storage(self.index, record.name, self._offsets[record.name], record.nbytes)


def _folder(file: HeaderFile, records: dict[str, Record]) -> str:
    pickles = [name for name in records if name.endswith(_PICKLE) and name.count("/") == 1]
    if len(pickles) > 1:
        raise file.refuse(f"holds several pickles: {listed(pickles)}", "save one state dict a file")
    if not pickles:
        what = "a zip archive of numpy arrays" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise file.refuse(f"is {what} that torch.save did not write", "name a checkpoint")
    folder = pickles[0][: -len(_PICKLE)]
    if f"{folder}/constants.pkl" in records:
        raise file.refuse(
            "is a TorchScript archive: code, not a state dict",
            "take its weights out (this runs its code): torch.save(torch.jit.load(file).state_dict(), 'weights.pth')",
        )
    return folder
