"""The process between command and worker: it spawns, samples, records and explains one run.

It is a process of its own so that neither the screen nor the death of the command can harm a recording. Its standard
input carries one line, the run's specification, and then serves as a lifeline: when it closes, the run is cancelled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from meminspect import __version__
from meminspect.analysis.describe import checkpoint_document, theory_document
from meminspect.capture.store import CaptureWriter
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.explain import explain
from meminspect.engine.preflight import refusal
from meminspect.engine.recording import Recording
from meminspect.engine.sampler import Sampler
from meminspect.engine.spec import RunSpec
from meminspect.engine.warmup import tiny_twin
from meminspect.engine.worker_process import WorkerProcess
from meminspect.errors import MeminspectError
from meminspect.sampling.cgroups import oom_kills, system_oom_kills
from meminspect.sampling.file_system import file_system
from meminspect.sampling.machine import read_machine
from meminspect.sampling.nvml import open_nvml
from meminspect.sampling.page_cache import cached_fraction
from meminspect.strategies import find
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.sampling.nvml import Nvml

__all__ = ["main", "supervise"]

_SWITCH_INTERVAL_S = 0.0005  # the sampler must not wait 5 ms for the interpreter while a commit is being prepared


def main() -> None:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what Ctrl-C means
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    spec = RunSpec.from_document(json.loads(sys.stdin.readline()))
    stop, stop_sender = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(stop_sender, b"x"))
    try:
        supervise(spec, (sys.stdin.fileno(), stop))
    except MeminspectError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the command reads it
        raise SystemExit(error.exit_code) from error


def supervise(spec: RunSpec, cancel_when_readable: tuple[int, ...]) -> None:
    """Run one strategy and leave a closed capture with an outcome, whatever happens to the worker.

    Raises:
        CaptureError: the capture cannot be written.
    """
    started_ns = time.monotonic_ns()
    writer = CaptureWriter(spec.capture, started_ns)
    try:
        writer.fact("spec", {**spec.document(), "meminspect": __version__, "supervisor_pid": os.getpid()})
        now = datetime.datetime.now(datetime.timezone.utc)
        writer.fact("started", {"wall": now.isoformat(), "monotonic_ns": started_ns})
        try:
            outcome = _run(spec, writer, cancel_when_readable)
        except MeminspectError as error:
            outcome = _outcome("failed", error.message)
        writer.fact("outcome", outcome)
    finally:
        writer.close()


def _run(spec: RunSpec, writer: CaptureWriter, cancel_when_readable: tuple[int, ...]) -> dict[str, Any]:
    strategy = find(spec.strategy)
    checkpoint = read_checkpoint(spec.checkpoint)
    task = task_for(checkpoint, spec.options)
    nvml = open_nvml().nvml
    machine = read_machine(nvml)
    theory = strategy.theory(task)
    residencies = [cached_fraction(file.path).fraction for file in checkpoint.files]
    writer.fact(
        "checkpoint",
        checkpoint_document(checkpoint, task.architecture, residencies, file_system(checkpoint.path), task.note),
    )
    writer.fact("machine", machine.document())
    writer.fact("theory", theory_document(theory))
    writer.fact("plan", {"work_bytes": theory.work_bytes, "peak_rss_bytes": theory.peak_rss_bytes})
    writer.fact("recipe", strategy.recipe(task))
    refused = refusal(strategy, task, theory, machine, force=spec.force)
    if refused is not None:
        return _outcome("refused", refused)
    writer.ledger(
        (step.phase, step.operation.name.lower(), step.pool.name.lower(), step.item, step.tensor, step.nbytes)
        for step in strategy.ledger(task)
    )
    with tiny_twin(task) as tiny:
        outcome = _run_worker(spec, writer, tiny, theory.peak.heap_bytes or 0, nvml, cancel_when_readable)
    if outcome["outcome"] == "completed" and not outcome["message"]:
        outcome["message"] = strategy.remark(task)
    return outcome


def _run_worker(
    spec: RunSpec,
    writer: CaptureWriter,
    tiny: Path,
    heap_bytes: int,
    nvml: Nvml | None,
    cancel_when_readable: tuple[int, ...],
) -> dict[str, Any]:
    wanted = {
        "strategy": spec.strategy,
        "checkpoint": str(spec.checkpoint.absolute()),
        "tiny": str(tiny),
        "heap_bytes": heap_bytes,
        "options": dataclasses.asdict(spec.options),
    }
    kills_before, started_s = _oom_kills(os.getpid()), time.monotonic()
    with contextlib.ExitStack() as stack:
        # Undone in reverse: whatever happens, the worker goes first and the ring is unmapped last.
        worker = WorkerProcess(spec.python, wanted)
        stack.callback(worker.close)
        sampler = Sampler(worker.pid, lambda: nvml.used_bytes(0) if nvml else None)
        recording = Recording(writer, worker, sampler)
        sampler.start()
        recording.start()
        stack.callback(recording.finish)
        stack.callback(sampler.stop)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        cancelled = _wait(worker, cancel_when_readable)
        status = worker.wait()
    for failure in (recording.failure, sampler.failure):
        if failure is not None:
            raise failure
    writer.fact(
        "supervision",
        {"samples": sampler.count, "sampler_cpu_s": sampler.cpu_s, "writer_cpu_s": recording.cpu_s,
         "supervised_s": time.monotonic() - started_s, "max_gap_ms": sampler.max_gap_ns / 1e6,
         "events_lost": worker.events_lost},
    )  # fmt: skip
    return explain(
        status,
        recording.state,
        cancelled=cancelled,
        oom_kills=_oom_kills(os.getpid()) - kills_before,
        last_rss_bytes=sampler.last_rss_bytes,
    )


def _wait(worker: WorkerProcess, cancel_when_readable: tuple[int, ...]) -> bool:
    """Wait for the worker's end, or kill it when somebody asks to; True when we did."""
    poll = select.poll()
    poll.register(worker.pidfd, select.POLLIN)
    for descriptor in cancel_when_readable:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    ready = {descriptor for descriptor, _ in poll.poll()}
    if worker.pidfd in ready:
        return False
    worker.kill()
    return True


def _oom_kills(pid: int) -> int:
    """Kills in the worker's memory cgroup, which is ours; on the whole system where the cgroup does not count."""
    count = oom_kills(pid)
    return (system_oom_kills() or 0) if count is None else count


def _outcome(outcome: str, message: str) -> dict[str, Any]:
    return {"outcome": outcome, "message": message, "died_at": None, "exit_status": None}


if __name__ == "__main__":
    main()
