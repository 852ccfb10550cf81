"""Events and samples of runs made by hand, on a baseline of 1000 heap, 500 file and 10 pinned bytes."""

from __future__ import annotations

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading, Sample

MS = 1_000_000
MIB = 1 << 20
BASE = Reading(1000, 500, 10, 1510)


def reading(heap: int = 0, file: int = 0, pinned: int = 0, mark: int | None = None) -> Reading:
    """A reading, all figures above the baseline; the mark is the present RSS unless told otherwise."""
    now = heap + file + pinned
    return Reading(1000 + heap, 500 + file, 10 + pinned, 1510 + (now if mark is None else mark))


def named(t_ms: float, name: str, at: Reading) -> Event:
    return Event(int(t_ms * MS), EventKind.READING, reading=at, name=name)


def baseline(t_ms: float = 10, mark_before: int = 5000) -> Event:
    """The baseline, with a mark of the warm-up, which the worker resets after this reading."""
    return named(t_ms, "baseline", BASE._replace(high_water_bytes=1510 + mark_before))


def resident(t_ms: float, at: Reading) -> Event:
    return named(t_ms, "resident", at)


def phase(t_ms: float, name: str, at: Reading | None = None) -> Event:
    return Event(int(t_ms * MS), EventKind.PHASE, reading=at, name=name)


def begin(
    t_ms: float,
    operation: Operation,
    pool: Pool,
    id_: int,
    name: str,
    nbytes: int,
    at: Reading | None = None,
    file: int = 0,
) -> Event:
    return Event(int(t_ms * MS), EventKind.BEGIN, operation, pool, id_, nbytes, file, reading=at, name=name)


def end(t_ms: float, of: Event, at: Reading | None = None) -> Event:
    return of._replace(t_ns=int(t_ms * MS), kind=EventKind.END, reading=at, exact=at is not None)


def release(t_ms: float, of: Event) -> Event:
    return of._replace(t_ns=int(t_ms * MS), kind=EventKind.RELEASE, reading=None)


def sample(t_ms: float, at: Reading, **more: int) -> Sample:
    return Sample(int(t_ms * MS), at.heap_bytes, at.file_bytes, at.pinned_bytes, 0, at.high_water_bytes, **more)


def total(t_ms: float, nbytes: int) -> Sample:
    """What is seen where the system tells no pools."""
    return Sample(int(t_ms * MS), None, None, None, None, total_bytes=nbytes)


def report(t_ms: float, name: str, detail: str) -> Event:
    return Event(int(t_ms * MS), EventKind.REPORT, name=name, detail=detail)
