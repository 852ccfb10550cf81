"""A recording of this very process, from inside: `meminspect.record`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from meminspect import __version__
from meminspect.analysis.run import run_document
from meminspect.capture.ring import RingReader, RingWriter, create_ring
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.engine.cache_watch import CacheWatch
from meminspect.engine.device_watch import DeviceWatch
from meminspect.engine.explain import outcome_document
from meminspect.engine.recording import Recording
from meminspect.engine.sampler import Sampler
from meminspect.engine.script_run import describe_checkpoint
from meminspect.engine.spec import RunSpec
from meminspect.engine.watching import devices_of, vram_document
from meminspect.result import RunResult
from meminspect.sampling.machine import read_machine
from meminspect.sampling.nvml import open_nvml
from meminspect.sampling.own_memory import own_memory
from meminspect.sampling.procfs import ProcessMemory, why_no_pools
from meminspect.strategies import LoadOptions

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from meminspect.capture.records import LogLine
    from meminspect.checkpoint import Checkpoint
    from meminspect.engine.watching import Devices

__all__ = ["RECORD", "Recorder", "read_result"]

RECORD: Final = "record"
"""What stands for a strategy where code records itself."""

_RING_BYTES: Final = 8 << 20
_NOTES: Final = (
    "recorded from inside: what the process held before, imports included, is its baseline, and what its other threads "
    "do meanwhile is counted with it",
    "tensors that were made before, and functions of torch or safetensors that were imported by name before, are not "
    "seen; samples come from a thread that a call may delay which keeps Python's lock",
)


def read_result(capture: Path) -> RunResult:
    """The result of a capture that is finished."""
    with CaptureReader(capture) as reader:
        return RunResult.from_document(run_document(reader))


class Recorder:
    """A recording of this process, between entering and leaving its context.

    Attributes:
        capture: its file.
        result: what it came to; None until the context is left.
    """

    def __init__(self, capture: Path, checkpoint: Checkpoint | None) -> None:
        self.capture = capture
        self.result: RunResult | None = None
        self._checkpoint = checkpoint

    def __enter__(self) -> Recorder:
        from meminspect.worker import allocator
        from meminspect.worker.onlooker import Onlooker, UntouchedMemory
        from meminspect.worker.recorder import Recorder as Events

        self._started_ns = time.monotonic_ns()
        self._writer = CaptureWriter(self.capture, self._started_ns)
        devices = self._describe()
        ring = create_ring(_RING_BYTES)
        self._inside = _ThisProcess(RingReader(ring))
        self._sampler = Sampler(os.getpid(), devices.used_bytes)
        files = [file.path for file in self._checkpoint.files] if self._checkpoint else []
        self._cache_watch = CacheWatch(files)
        watch = DeviceWatch(None, (), os.getpid())  # more than what is in use is asked of a load to a device only
        self._recording = Recording(self._writer, self._inside, self._sampler, self._cache_watch, watch)
        self._ring, self._memory = RingWriter(ring), own_memory()
        events = Events(self._ring, UntouchedMemory(self._memory), allocator.free_bytes)
        os.close(ring)
        events.enabled = True
        for thread in (self._sampler, self._recording, self._cache_watch):
            thread.start()
        self._onlooker = Onlooker(events, self._checkpoint)
        self._onlooker.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        from meminspect.worker.failure import failure_of

        self._onlooker.end()
        self._sampler.stop()
        self._cache_watch.stop()
        self._recording.finish()
        self._writer.fact(
            "supervision",
            {"samples": self._sampler.count, "sampler_cpu_s": self._sampler.cpu_s,
             "writer_cpu_s": self._recording.cpu_s, "supervised_s": (time.monotonic_ns() - self._started_ns) / 1e9,
             "max_gap_ms": self._sampler.max_gap_ns / 1e6, "events_lost": self._inside.ring.lost,
             "cache_watch_cpu_s": self._cache_watch.cpu_s},
        )  # fmt: skip
        outcome = outcome_document("completed", "")
        if value is not None:
            failure = failure_of(value)
            words = f"{failure['type']}: {failure['message']}".removesuffix(": ")
            outcome = outcome_document(failure["kind"], words)
        self._writer.fact("outcome", outcome)
        self._writer.close()
        self._inside.ring.close()
        self._ring.close()
        if isinstance(self._memory, ProcessMemory):
            self._memory.close()
        self.result = read_result(self.capture)

    def _describe(self) -> Devices:
        """Write down what is known before it begins; returns the GPUs."""
        opening = open_nvml()
        machine = read_machine(opening.nvml)
        writer, checkpoint = self._writer, self._checkpoint
        spec = RunSpec(None if checkpoint is None else checkpoint.path, RECORD, self.capture)
        script = {"kind": RECORD, "path": sys.argv[0] if sys.argv else "", "entry": "", "notes": _NOTES,
                  "arguments": sys.argv[1:], "folder": _folder()}  # fmt: skip
        writer.fact(
            "spec", {**spec.document(), "script": script, "meminspect": __version__, "supervisor_pid": os.getpid()}
        )
        now = datetime.datetime.now(datetime.timezone.utc)
        writer.fact("started", {"wall": now.isoformat(), "monotonic_ns": self._started_ns})
        if checkpoint is not None:
            describe_checkpoint(checkpoint, LoadOptions(), writer)
        writer.fact("machine", machine.document())
        writer.fact("vram", vram_document(machine, LoadOptions()))
        writer.fact("pools", {"reason": why_no_pools()})
        writer.fact("plan", {"work_bytes": 0, "usable_bytes": machine.usable_bytes})
        writer.fact(
            "environment",
            {"python": sys.version.split()[0], "executable": sys.executable, "pid": os.getpid(), "torch": None,
             "safetensors": None},
        )  # fmt: skip
        return devices_of(opening.nvml, machine, LoadOptions())


@dataclasses.dataclass(frozen=True)
class _ThisProcess:
    """What is recorded is ourselves: there is nothing printed to collect, and nobody to kill."""

    ring: RingReader

    def take_log(self) -> list[LogLine]:
        return []

    def kill(self) -> None:
        """A recording that fails ends alone."""


def _folder() -> str:
    with contextlib.suppress(OSError):
        return os.getcwd()  # noqa: PTH109 - as text
    return ""
