"""What a run leaves behind, as plain data: events from inside the worker, samples from outside, log lines.

All times are `time.monotonic_ns`, which one machine's processes share.
"""

from __future__ import annotations

import enum
import json
from typing import Final, NamedTuple

__all__ = [
    "PHASES", "POOLS", "Cached", "DeviceReading", "DeviceSample", "Event", "EventKind", "LogLine", "Operation", "Pool",
    "Reading", "Resident", "Sample",
]  # fmt: skip


class Pool(enum.IntEnum):
    """Where bytes live; pools are never added up except as a process's RSS."""

    NONE = 0
    HEAP = 1  # anonymous memory, RssAnon
    FILE = 2  # pages of mapped files, RssFile: reclaimable
    PINNED = 3  # page-locked and other shared memory, RssShmem
    VRAM = 4  # device memory


POOLS: Final = (Pool.HEAP, Pool.FILE, Pool.PINNED, Pool.VRAM)

PHASES: Final = (
    "import", "warm-up", "script", "build", "move", "read", "merge", "cast", "quantise", "copy", "offload", "assign",
    "finalise", "touch", "first forward", "verify",
)  # fmt: skip


class EventKind(enum.IntEnum):
    """What an event says."""

    PHASE = 1  # a phase begins; the one before ends
    BEGIN = 2  # an operation on a tensor begins; written before its bytes are allocated
    END = 3  # that operation is done
    RELEASE = 4  # the memory that an earlier operation materialised is gone
    READING = 5  # the worker's own reading of its memory, without a tensor
    REPORT = 6  # a fact of the run, as JSON, under a name
    BATCH = 7  # many operations at once, as JSON: see `capture.batches`


class Operation(enum.IntEnum):
    """What is done to a tensor."""

    NONE = 0
    MATERIALISE = 1  # memory of its own, or a mapping, comes into being
    COPY = 2  # its values are written into memory that exists
    ASSIGN = 3  # the model takes the memory over as it is
    TOUCH = 4  # pages of a mapping become resident
    RELEASE = 5  # in a ledger only: an event says it by its kind


class Resident(NamedTuple):
    """What of a process is in memory at one moment, in bytes; a pool is None where the system tells only the total."""

    rss_bytes: int
    heap_bytes: int | None = None
    file_bytes: int | None = None
    pinned_bytes: int | None = None

    def above(self, baseline: Resident) -> Resident:
        """How much more that is than at another moment."""
        more = (
            None if one is None or two is None else one - two for one, two in zip(self[1:], baseline[1:], strict=True)
        )
        return Resident(self.rss_bytes - baseline.rss_bytes, *more)


class Reading(NamedTuple):
    """The worker's memory by the kernel's books, in bytes.

    `high_water_bytes` is the largest RSS since the mark was last reset.
    """

    heap_bytes: int
    file_bytes: int
    pinned_bytes: int
    high_water_bytes: int

    @property
    def rss_bytes(self) -> int:
        """The sum of the pools."""
        return self.heap_bytes + self.file_bytes + self.pinned_bytes

    @property
    def resident(self) -> Resident:
        """The pools and their sum."""
        return Resident(self.rss_bytes, *self[:3])


class Event(NamedTuple):
    """One record of the worker's event stream.

    `id` ties BEGIN, END and RELEASE together. `exact` says that the reading's high-water mark covers exactly the
    time since the operation's BEGIN, with no other tensor in flight.
    """

    t_ns: int
    kind: EventKind
    operation: Operation = Operation.NONE
    pool: Pool = Pool.NONE
    id: int = 0
    nbytes: int = 0
    file: int = -1  # index into the checkpoint's files; -1: not from a file
    offset: int = -1  # bytes from the start of that file
    exact: bool = False
    reading: Reading | None = None
    name: str = ""  # the tensor, the phase or the report
    detail: str = ""  # BEGIN: "float16 [4096, 4096]"; REPORT: the JSON; what reads a device: its figures as JSON

    @property
    def device(self) -> DeviceReading | None:
        """What the device's allocator counted at the end of an operation on a device, or in a reading of it.

        None where there is no device, and where the record is damaged.
        """
        if self.kind not in (EventKind.END, EventKind.READING) or not self.detail:
            return None
        try:
            reading = DeviceReading(**json.loads(self.detail))
        except (ValueError, TypeError):
            return None
        known = isinstance(reading.allocated_bytes, int)
        return reading if known and all(isinstance(nbytes, int | None) for nbytes in reading) else None


class Sample(NamedTuple):
    """What the supervisor saw from outside at one moment, in bytes; None where the system does not tell."""

    t_ns: int
    heap_bytes: int | None
    file_bytes: int | None
    pinned_bytes: int | None
    swap_bytes: int | None
    high_water_bytes: int | None = None  # not asked every time
    read_bytes: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    vram_used_bytes: int | None = None
    total_bytes: int | None = None  # RSS, where the system tells no pools

    @property
    def resident(self) -> Resident:
        """The pools and their sum, or the total alone."""
        if self.heap_bytes is None or self.file_bytes is None or self.pinned_bytes is None:
            return Resident(self.total_bytes or 0)
        pools = self.heap_bytes, self.file_bytes, self.pinned_bytes
        return Resident(sum(pools), *pools)


class Cached(NamedTuple):
    """How much of a file the supervisor saw in the page cache; true until the next one of the same file."""

    t_ns: int
    file: int  # index into the checkpoint's files
    cached_bytes: int


class DeviceSample(NamedTuple):
    """What the driver told of a GPU at one moment, in bytes; None where it does not tell."""

    t_ns: int
    gpu: int  # CUDA's number of it
    used_bytes: int | None  # by everybody
    free_bytes: int | None
    process_bytes: int | None  # by the worker, its CUDA context included
    busy_percent: int | None  # of the time, in which a kernel ran
    to_device_bytes_per_s: int | None  # over PCIe
    from_device_bytes_per_s: int | None


class DeviceReading(NamedTuple):
    """What the device's allocator counted in the worker, in bytes; None where torch does not tell."""

    allocated_bytes: int
    reserved_bytes: int | None
    peak_bytes: int | None  # since the reading before
    process_bytes: int | None = None  # by the process, as its driver counts: Metal's tells it inside

    @property
    def most_bytes(self) -> int:
        """The most that was allocated since the reading before, as far as that is known."""
        return self.allocated_bytes if self.peak_bytes is None else self.peak_bytes


class LogLine(NamedTuple):
    """A line that the worker's code printed."""

    t_ns: int
    stream: str  # "stdout" or "stderr"
    text: str
