"""A tracker for code that nobody has told us about: it reads the headers of whatever checkpoint file is opened."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from meminspect.capture.records import Operation, Pool
from meminspect.checkpoint import Checkpoint, read_checkpoint
from meminspect.errors import MeminspectError
from meminspect.worker.hooks.tracker import Tracker, describe

if TYPE_CHECKING:
    import torch

    from meminspect.worker.recorder import Recorder

__all__ = ["DiscoveringTracker"]

_NOTHING: Final = Checkpoint(Path(), "none", (), ())
_PAGES_ASKED: Final = 32  # of a tensor, evenly spread
_ENTRY_BYTES: Final = 8
_PRESENT: Final = 0x80  # of an entry's last byte


class DiscoveringTracker(Tracker):
    """Names tensors of every checkpoint file that it meets, and the parameters that modules register.

    Attributes:
        files: those files, by their index in events.
        provisional: names under which parameters were known until they got their own.

    Args:
        recorder: what it reports to.
        checkpoint: what the code is known to load; None where nobody has said so.
    """

    def __init__(self, recorder: Recorder, checkpoint: Checkpoint | None) -> None:
        super().__init__(recorder, checkpoint or _NOTHING)
        self.files = [str(file.path) for file in (checkpoint or _NOTHING).files]
        self.provisional: set[str] = set()
        self._strangers: set[tuple[int, int]] = set()
        self._reading = threading.Lock()
        self._nameless: dict[int, str] = {}  # event ids of what modules have registered → type and shape

    def file_index(self, file: Any) -> int:
        """As `Tracker.file_index`; a file that is seen for the first time is looked into."""
        index = super().file_index(file)
        if index >= 0 or not self.recorder.enabled:
            return index
        started_ns = time.monotonic_ns()
        try:
            with self._reading:
                return self._discovered(file)
        finally:
            self.recorder.charge_since(started_ns)

    def _discovered(self, file: Any) -> int:
        try:
            is_open = hasattr(file, "fileno")
            status = os.fstat(file.fileno()) if is_open else os.stat(file)  # noqa: PTH116 - any path
            path = os.readlink(f"/proc/self/fd/{file.fileno()}") if is_open else os.fsdecode(file)  # noqa: PTH115
        except (OSError, TypeError, ValueError):
            return -1
        inode = status.st_dev, status.st_ino
        if inode in self._strangers or not stat.S_ISREG(status.st_mode):
            return -1
        if inode not in self._by_inode:
            found = None
            with contextlib.suppress(MeminspectError, OSError, RecursionError, MemoryError):
                found = read_checkpoint(path)
            if found is None or not found.files:
                self._strangers.add(inode)
                return -1
            self._learn(found)
        return self._by_inode.get(inode, -1)

    def _learn(self, found: Checkpoint) -> None:
        first = len(self.files)
        for tensor in (*found.tensors, *found.beside):
            storage = tensor.storage._replace(file=first + tensor.storage.file)
            stored = tensor._replace(storage=storage)
            self._by_key.setdefault((storage.file, storage.key), stored)
            if storage.nbytes:
                self._by_offset.setdefault((storage.file, storage.offset), stored)
            self._by_file[storage.file].append(stored)
        for number, file in enumerate(found.files, first):
            status = file.path.stat()
            self._by_inode[status.st_dev, status.st_ino] = number
            self.files.append(str(file.path))
        self.report_files()  # at once, so that also a run that dies has it

    def report_files(self) -> None:
        """Report which files were met, and which names were none of a tensor's own."""
        self.recorder.report("opened", {"files": self.files, "provisional": sorted(self.provisional)})

    def report_touched(self) -> None:
        """Report the mapped tensors whose pages the code has made resident by using them, of which no event tells.

        A tensor counts where most of a few of its pages are (`man 5 proc`, /proc/pid/pagemap).
        """
        started_ns = time.monotonic_ns()
        with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123
            for live in list(self._live.values()):
                if live.pool is Pool.FILE and _is_resident(pagemap, live.address, live.nbytes):
                    self.recorder.done(Operation.TOUCH, Pool.FILE, live.name, live.nbytes)
        self.recorder.charge_since(started_ns)

    def registered(self, id_: int, tensor: torch.Tensor) -> None:
        """A module has registered a tensor that an event reported; its full name is not known yet."""
        self._nameless[id_] = describe(str(tensor.dtype), tuple(tensor.shape))

    def named(self, name: str, tensor: torch.Tensor) -> None:
        """The full name of a tensor of a model: from now on events call it so."""
        if not self._nameless or tensor.is_meta:
            return
        try:
            address = tensor.untyped_storage().data_ptr()
        except (RuntimeError, NotImplementedError):  # a subclass without storage
            return
        id_ = self._owner.get(address, 0)
        detail, live = self._nameless.pop(id_, None), self._live.get(id_)
        if detail is None or live is None or live.name == name:
            return
        self.provisional.add(live.name)
        # What was known under the name of its module's class goes, and the same comes under its own.
        self.recorder.release(id_, live.pool, live.name, live.nbytes)
        new = self.recorder.done(Operation.MATERIALISE, live.pool, name, live.nbytes, detail=detail)
        self._live[new] = self._live.pop(id_)
        live.id, live.name = new, name
        self._owner[address], self._names[address] = new, name


def _is_resident(pagemap: IO[bytes], address: int, nbytes: int) -> bool:
    """Whether most of the pages that are asked for are in memory."""
    first, last = address // mmap.PAGESIZE, (address + max(nbytes, 1) - 1) // mmap.PAGESIZE
    pages = range(first, last + 1, max(1, (last + 1 - first) // _PAGES_ASKED))
    entries = (os.pread(pagemap.fileno(), _ENTRY_BYTES, page * _ENTRY_BYTES) for page in pages)
    return 2 * sum(len(entry) == _ENTRY_BYTES and bool(entry[-1] & _PRESENT) for entry in entries) > len(pages)
