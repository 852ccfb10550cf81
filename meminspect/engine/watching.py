"""Watches one worker from the moment it is told what to load until its end, and says how it ended."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from meminspect.devices import index_of
from meminspect.engine.cache_watch import CacheWatch
from meminspect.engine.cancellation import Ending
from meminspect.engine.device_watch import DeviceWatch
from meminspect.engine.recording import Recording
from meminspect.engine.sampler import Sampler
from meminspect.sampling.pressure import pressure_books

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from meminspect.capture.store import CaptureWriter
    from meminspect.engine.cancellation import Cancellation
    from meminspect.engine.end_watch import EndWatch
    from meminspect.engine.limits import Confinement
    from meminspect.engine.worker_process import WorkerProcess
    from meminspect.sampling.machine import Machine
    from meminspect.sampling.nvml import Gpu, Nvml
    from meminspect.sampling.pressure import PressureBooks
    from meminspect.strategies import LoadOptions

__all__ = ["Devices", "devices_of", "vram_document", "watch"]


class Devices(NamedTuple):
    """The GPUs that a worker sees, and of which the driver tells."""

    nvml: Nvml | None
    gpus: tuple[Gpu, ...]  # in CUDA's order
    ordinal: int  # of the one that it loads to
    loaded_to: bool  # else the load is on the host, and nobody asks for more than what is in use

    def used_bytes(self) -> int | None:
        """How much of that one's memory is in use; None where nobody tells."""
        if self.nvml is None or self.ordinal >= len(self.gpus):
            return None
        return self.nvml.used_bytes(self.gpus[self.ordinal].index)


def devices_of(nvml: Nvml | None, machine: Machine, options: LoadOptions) -> Devices:
    """Those that a load with these options may watch."""
    gpus = machine.watched_for(options.device, options.interpreter)
    return Devices(nvml, gpus, index_of(options.device), options.device != "cpu")


def vram_document(machine: Machine, options: LoadOptions) -> dict[str, Any]:
    """The fact `vram`: the GPU that a load is to or watched beside, and why nobody tells what is used of it."""
    where = options.device, options.interpreter
    gpu = machine.gpu(*where)
    return {"reason": machine.why_no_vram(*where), "gpu": None if gpu is None else gpu.document()}


def watch(
    worker: WorkerProcess,
    wanted: Mapping[str, object],
    writer: CaptureWriter,
    cancellation: Cancellation,
    *,
    files: Sequence[Path],
    devices: Devices,
    limited: Confinement | None,
    end: EndWatch,
) -> dict[str, Any]:
    """Let the worker begin; sample and record it to its end: at once when somebody cancels or time is up.

    Args:
        worker: alive, and waiting for its specification.
        wanted: the specification that `worker.main` reads.
        writer: the capture, which also gets the facts `supervision`, `limit` and, of a worker that died, `pressure`.
        cancellation: the user's wish.
        files: the checkpoint's, to watch in the page cache.
        devices: the GPUs that it sees.
        limited: the limit that it is under, if any.
        end: what has watched since before the worker began for whoever may end it.

    Returns:
        The outcome.
    """
    started_s = time.monotonic()
    sampler = Sampler(worker.pid, devices.used_bytes, limited.group if limited else None)
    cache_watch, pressure = CacheWatch(files), pressure_books(worker.pid)
    device_watch = DeviceWatch(devices.nvml, devices.gpus if devices.loaded_to else (), worker.pid)
    recording = Recording(writer, worker, sampler, cache_watch, device_watch)
    with contextlib.ExitStack() as stack:
        # Undone in reverse: whatever happens, the worker goes first.
        sampler.start()
        recording.start()
        cache_watch.start()
        device_watch.start()
        stack.callback(recording.finish)
        stack.callback(device_watch.stop)
        stack.callback(cache_watch.stop)
        stack.callback(sampler.stop)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        worker.start(wanted)
        ending = cancellation.end_of(worker.end, end.timeout_s)
        if ending is not Ending.ITSELF:
            worker.kill()
        status = worker.wait()
    for failure in (recording.failure, sampler.failure, cache_watch.failure, device_watch.failure):
        if failure is not None:
            raise failure
    writer.fact(
        "supervision",
        {"samples": sampler.count, "sampler_cpu_s": sampler.cpu_s, "writer_cpu_s": recording.cpu_s,
         "supervised_s": time.monotonic() - started_s, "max_gap_ms": sampler.max_gap_ns / 1e6,
         "events_lost": worker.ring.lost, "cache_watch_cpu_s": cache_watch.cpu_s,
         "device_watch_cpu_s": device_watch.cpu_s},
    )  # fmt: skip
    _close_pressure(recording.state.reports.get("pressure"), pressure, writer)
    if limited is not None:
        writer.fact("limit", limited.document(sampler.group_file_bytes))
    return end.explained(worker.pid, status, recording.state, ending)


def _close_pressure(known: dict[str, Any] | None, books: PressureBooks | None, writer: CaptureWriter) -> None:
    """Read at the end of a worker that had no time to: how long was waited until it died."""
    if known is not None and known["before"] is not None and known["after"] is None and books is not None:
        pressure = books.read()
        writer.fact("pressure", {**known, "after": None if pressure is None else pressure._asdict()})
