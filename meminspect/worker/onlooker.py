"""Watches code of the user's own from inside its process, without a hand in what it does.

Nothing that the code may read itself is ever reset, torch is imported only if and when the code imports it, and a
process that it forks is left alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from meminspect import marks
from meminspect.sampling.own_memory import largest_rss_bytes
from meminspect.worker import allocator
from meminspect.worker.imports import watched_imports
from meminspect.worker.storage import StorageBooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.capture.records import Reading
    from meminspect.checkpoint import Checkpoint
    from meminspect.sampling.own_memory import OwnMemory
    from meminspect.worker.hooks.discovery import DiscoveringTracker
    from meminspect.worker.recorder import Recorder

__all__ = ["Onlooker", "UntouchedMemory"]

Answer = TypeVar("Answer")

OWN_CODE: Final = "script"  # the phase, as `hooks.own_code` has it, which imports torch
_HEAVY: Final = ("torch", "numpy", "safetensors", "transformers", "accelerate", "diffusers", "lightning", "sympy")
"""Libraries whose import takes memory worth a line of the bill."""


class UntouchedMemory:
    """The process's own memory, whose high-water mark is read and never reset: the code may want to read it, too.

    The code may also close our descriptors, as daemons do with all; then nothing is known any more.
    """

    def __init__(self, memory: OwnMemory) -> None:
        self.reading = _or_none(memory.reading)
        self.storage_read_bytes = _or_none(memory.storage_read_bytes)
        self.faults = _or_none(memory.faults)

    def reset_high_water(self) -> bool:
        """Refused."""
        return False


class Onlooker:
    """From `begin` to `end`; between them everything comes through hooks and marks.

    Args:
        recorder: of an `UntouchedMemory`.
        checkpoint: what the code is known to load; None where nobody has said so.
    """

    def __init__(self, recorder: Recorder, checkpoint: Checkpoint | None = None) -> None:
        self.recorder = recorder
        self._checkpoint = checkpoint
        self._tracker: DiscoveringTracker | None = None
        self._hooks = contextlib.ExitStack()
        self._pid = os.getpid()
        self._began_ns = 0
        self._importing = 0
        self._books: StorageBooks | None = None

    def begin(self, *, marked: bool = False) -> None:
        """Watch from now on; the baseline is what is in memory now, unless a mark takes its place later."""
        leave = weakref.WeakMethod(self._leave)  # nobody can take a callback back
        os.register_at_fork(after_in_child=lambda: _call(leave()))
        marks.listen(self._mark)
        self._hooks.callback(marks.unlisten, self._mark)
        if "torch" in sys.modules:
            self._watch_torch()
        self._hooks.enter_context(watched_imports(_HEAVY, self._import_begins, self._import_ends))
        self._baseline(marked=marked)

    def end(self) -> None:
        """Take the last reading and tell what is left in memory, unless a mark has ended the load before."""
        if not self._watches:
            return
        returned_ns, recorder = time.monotonic_ns(), self.recorder
        if self._tracker is not None:
            self._tracker.report_touched()
        window, _ = recorder.reading("resident")
        recorder.enabled = False  # what follows is ours
        self._hooks.close()
        recorder.report("returned", {"t_ns": returned_ns, "started_ns": self._began_ns})
        recorder.report("window", {**_held(window), "retained_at_peak_bytes": recorder.retained_at_peak_bytes})
        if self._books is not None:
            self._books.close()
        recorder.report("kept", _kept())
        if self._tracker is not None:
            self._tracker.report_files()
        recorder.report("hooks", {"hooks_s": recorder.hooks_s, "events": recorder.events,
                                  "event_us_median": recorder.event_us_median})  # fmt: skip

    @property
    def _watches(self) -> bool:
        return self.recorder.enabled and os.getpid() == self._pid

    def _baseline(self, *, marked: bool) -> None:
        recorder = self.recorder
        recorder.report("mark", {"baseline": "mark" if marked else "start"})
        self._books = StorageBooks(self._checkpoint.files if self._checkpoint else (), recorder)
        reading, _ = recorder.reading("baseline")
        recorder.report("baseline", {**_held(reading), "resets": False, "untouched": True,
                                     "retained_bytes": allocator.free_bytes()})  # fmt: skip
        self._began_ns = time.monotonic_ns()
        recorder.phase(OWN_CODE)

    def _mark(self, moment: marks.Moment) -> None:
        if not self._watches:
            return
        if moment == "baseline":
            self._baseline(marked=True)
        else:
            self.end()

    def _import_begins(self, name: str) -> None:
        self._importing += 1
        if self._importing == 1 and self.recorder.enabled:
            self.recorder.phase("import")
            self.recorder.reading("import begins")

    def _import_ends(self, name: str, succeeded: bool) -> None:
        if name == "torch" and succeeded and self.recorder.enabled:
            self._watch_torch()
        self._importing -= 1
        if not self._importing and self.recorder.enabled:
            self.recorder.reading("import ends")
            self.recorder.phase(OWN_CODE)

    def _watch_torch(self) -> None:
        """Put the hooks in place, unless they are."""
        if self._tracker is not None:
            return
        from meminspect.worker.hooks import installed, own_code
        from meminspect.worker.hooks.discovery import DiscoveringTracker

        self._tracker = DiscoveringTracker(self.recorder, self._checkpoint)
        self._hooks.enter_context(installed(self._tracker))
        self._hooks.enter_context(own_code.watch(self._tracker))
        torch = sys.modules["torch"]
        self.recorder.report("library", {"torch": torch.__version__, "safetensors": _version("safetensors")})

    def _leave(self) -> None:
        """This is a process that the code has forked: the ring is its parent's."""
        self.recorder.enabled = False
        marks.unlisten(self._mark)


def _call(method: Callable[[], None] | None) -> None:
    if method is not None:
        method()


def _or_none(ask: Callable[[], Answer | None]) -> Callable[[], Answer | None]:
    def call() -> Answer | None:
        try:
            return ask()
        except Exception:  # noqa: BLE001 - the descriptor may be another file's by now
            return None

    return call


def _held(reading: Reading | None) -> dict[str, int | None]:
    if reading is not None:
        return reading._asdict()
    return {**dict.fromkeys(("heap_bytes", "file_bytes", "pinned_bytes")), "high_water_bytes": largest_rss_bytes()}


def _version(name: str) -> str | None:
    return getattr(sys.modules.get(name), "__version__", None)


def _kept() -> dict[str, Any]:
    """What the process holds in tensors: in models, by type, and beside them. Every storage counts once."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {"model_bytes": 0, "other_bytes": 0, "dtypes": {}}
    seen: set[int] = set()
    dtypes: dict[str, int] = {}
    objects = gc.get_objects()  # by type(): isinstance would ask objects that answer for others
    for thing in objects:
        if issubclass(type(thing), torch.nn.Module):
            for tensor in (
                *thing.__dict__.get("_parameters", {}).values(),
                *thing.__dict__.get("_buffers", {}).values(),
            ):
                nbytes = _new_bytes(tensor, seen)
                if nbytes:
                    dtype = str(tensor.dtype).removeprefix("torch.")
                    dtypes[dtype] = dtypes.get(dtype, 0) + nbytes
    others = sum(_new_bytes(thing, seen) for thing in objects if issubclass(type(thing), torch.Tensor))
    return {"model_bytes": sum(dtypes.values()), "other_bytes": others, "dtypes": dtypes}


def _new_bytes(tensor: Any, seen: set[int]) -> int:
    """Bytes of a tensor's storage, unless it has been counted or has none in this process or on its device."""
    try:
        if tensor is None or tensor.is_meta:
            return 0
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
    except Exception:  # noqa: BLE001 - a subclass may raise whatever it likes
        return 0
    if not address or address in seen:
        return 0
    seen.add(address)
    return int(storage.nbytes())
