"""Watches one worker from the moment it is told what to load until its end, and says how it ended."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from meminspect.engine.explain import explain
from meminspect.engine.recording import Recording
from meminspect.engine.sampler import Sampler
from meminspect.sampling.cgroups import memory_group, system_oom_kills

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.capture.store import CaptureWriter
    from meminspect.engine.cancellation import Cancellation
    from meminspect.engine.limits import Confinement
    from meminspect.engine.worker_process import WorkerProcess
    from meminspect.sampling.cgroups import MemoryGroup
    from meminspect.sampling.nvml import Nvml

__all__ = ["watch"]


def watch(
    worker: WorkerProcess,
    wanted: Mapping[str, object],
    writer: CaptureWriter,
    cancellation: Cancellation,
    *,
    nvml: Nvml | None,
    limited: Confinement | None,
) -> dict[str, Any]:
    """Let the worker begin; sample and record it to its end, which comes at once when somebody cancels.

    Args:
        worker: alive, and waiting for its specification.
        wanted: the specification that `worker.main` reads.
        writer: the capture, which also gets the facts `supervision` and `limit`.
        cancellation: the user's wish.
        nvml: the device's books, if there are any.
        limited: the limit that it is under, if any.

    Returns:
        The outcome.
    """
    group = (limited.group if limited else None) or memory_group(os.getpid())
    kills_before, started_s = _oom_kills(group), time.monotonic()
    sampler = Sampler(worker.pid, lambda: nvml.used_bytes(0) if nvml else None, limited.group if limited else None)
    recording = Recording(writer, worker, sampler)
    with contextlib.ExitStack() as stack:
        # Undone in reverse: whatever happens, the worker goes first.
        sampler.start()
        recording.start()
        stack.callback(recording.finish)
        stack.callback(sampler.stop)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        worker.start(wanted)
        cancelled = cancellation.comes_before_end_of(worker.pidfd)
        if cancelled:
            worker.kill()
        status = worker.wait()
    for failure in (recording.failure, sampler.failure):
        if failure is not None:
            raise failure
    writer.fact(
        "supervision",
        {"samples": sampler.count, "sampler_cpu_s": sampler.cpu_s, "writer_cpu_s": recording.cpu_s,
         "supervised_s": time.monotonic() - started_s, "max_gap_ms": sampler.max_gap_ns / 1e6,
         "events_lost": worker.ring.lost},
    )  # fmt: skip
    if limited is not None:
        writer.fact("limit", limited.document(sampler.group_file_bytes))
    return explain(
        status,
        recording.state,
        cancelled=cancelled,
        oom_kills=_oom_kills(group) - kills_before,
        last_rss_bytes=sampler.last_rss_bytes,
        limit_bytes=limited.limit_bytes if limited is not None and limited.stood_in_the_way() else None,
    )


def _oom_kills(group: MemoryGroup | None) -> int:
    """Kills in the worker's memory cgroup; on the whole system where the cgroup does not count."""
    count = None if group is None else group.oom_kills()
    return (system_oom_kills() or 0) if count is None else count
