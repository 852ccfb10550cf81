"""The process between command and worker: it spawns, samples, records and explains one run.

It is a process of its own so that neither the screen nor the death of the command can harm a recording. Its standard
input carries one line, the run's specification, and then serves as a lifeline: when it closes, the run is cancelled. A
word before that says that somebody meant it (`engine.cancellation`).
Another line may come before, `{"standby": PYTHON}`: then a worker is spawned at once, to import torch meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meminspect import __version__
from meminspect.analysis.advice import better_than
from meminspect.analysis.describe import checkpoint_document, theory_document
from meminspect.analysis.explanation import explanation_of
from meminspect.capture.records import Pool
from meminspect.capture.store import CaptureWriter
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.cancellation import Cancellation, Ending
from meminspect.engine.end_watch import EndWatch
from meminspect.engine.explain import GONE, outcome_document
from meminspect.engine.limits import confined
from meminspect.engine.preflight import refusal
from meminspect.engine.preparation import PREPARING, prepare_cache
from meminspect.engine.script_run import run_script
from meminspect.engine.spec import RunSpec
from meminspect.engine.warmup import tiny_twin
from meminspect.engine.watching import Devices, devices_of, vram_document, watch
from meminspect.engine.worker_process import WorkerProcess
from meminspect.errors import MeminspectError, RunError
from meminspect.page_cache import cached_fraction
from meminspect.sampling.machine import read_machine
from meminspect.sampling.mounted import file_system_of
from meminspect.sampling.nvml import open_nvml
from meminspect.sampling.procfs import why_no_pools
from meminspect.strategies import find
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.engine.limits import Confinement
    from meminspect.engine.worker_process import Streams
    from meminspect.sampling.machine import Machine
    from meminspect.strategies import LoadOptions, LoadTask, Strategy
    from meminspect.theory.ledger import Theory

__all__ = ["main", "supervise"]

_COLUMNS = 120  # of theory's picture of the device
_SWITCH_INTERVAL_S = 0.0005  # the sampler must not wait 5 ms for the interpreter while a commit is being prepared


def main() -> None:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what Ctrl-C means
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.ExitStack() as stack:
        asked, waiting = _asked(), None
        if "standby" in asked:
            with contextlib.suppress(RunError):  # the run will meet it too, and has a capture to say so in
                waiting = stack.enter_context(WorkerProcess(asked["standby"]))
            asked = _asked()
        if not asked:  # whoever started us has gone, or has no run for us
            return
        stop, stop_sender = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: os.write(stop_sender, b"x"))
        try:
            streams = asked.pop("streams", None)
            spec = RunSpec.from_document(asked)
            supervise(spec, Cancellation(sys.stdin.fileno(), stop), waiting, tuple(streams) if streams else None)
        except MeminspectError as error:
            print(error.message, file=sys.stderr)  # noqa: T201 - the command reads it
            raise SystemExit(error.exit_code) from error


def _asked() -> dict[str, Any]:
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as unread:
        line = unread.readline()  # and not a byte more: what follows is polled for
    asked: dict[str, Any] = json.loads(line) if line else {}
    return asked


def supervise(
    spec: RunSpec, cancellation: Cancellation, waiting: WorkerProcess | None, streams: Streams | None = None
) -> None:
    """Run one strategy and leave a closed capture with an outcome, whatever happens to the worker.

    Args:
        spec: the run.
        cancellation: the user's wish to end it.
        waiting: a worker that has been spawned ahead of the run, if any; the caller ends it.
        streams: standard streams for a script of the user's own; None: what it prints is recorded.

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
            if spec.script is not None:
                outcome = run_script(spec, spec.script, writer, cancellation, streams)
            else:
                outcome = _run(spec, writer, cancellation, waiting)
        except MeminspectError as error:
            outcome = outcome_document("failed", error.message)
        writer.fact("outcome", outcome)
    finally:
        writer.close()


def _run(
    spec: RunSpec, writer: CaptureWriter, cancellation: Cancellation, waiting: WorkerProcess | None
) -> dict[str, Any]:
    strategy = find(spec.strategy)
    assert spec.checkpoint is not None  # noqa: S101 - only a script may do without
    checkpoint = read_checkpoint(spec.checkpoint)
    task = task_for(checkpoint, spec.options)
    opening = open_nvml()
    taken_bytes = waiting.held_bytes() if waiting is not None else 0
    machine = read_machine(opening.nvml).with_room_of(taken_bytes)
    theory = strategy.theory(task)
    residencies = [cached_fraction(file.path) for file in checkpoint.files]
    writer.fact(
        "checkpoint",
        checkpoint_document(checkpoint, task.architecture, residencies, file_system_of(checkpoint.path), task.note),
    )
    writer.fact("machine", machine.document())
    writer.fact("vram", _vram(strategy, task, machine))
    writer.fact("pools", {"reason": why_no_pools()})
    writer.fact("theory", theory_document(theory))
    writer.fact("plan", {"work_bytes": theory.work_bytes, "usable_bytes": machine.usable_bytes})
    writer.fact("recipe", strategy.recipe(task))
    refused = refusal(strategy, task, theory, machine, force=spec.force, limit_bytes=spec.limit_bytes)
    if refused is not None:
        outcome = outcome_document("refused", refused)
    else:
        writer.ledger(
            (step.phase, step.operation.name.lower(), step.pool.name.lower(), step.item, step.tensor, step.nbytes)
            for step in strategy.steps(task)
        )
        devices = devices_of(opening.nvml, machine, spec.options)
        outcome = _loaded(spec, writer, task, theory, machine, cancellation, waiting, devices)
    if outcome["outcome"] == "refused":  # no worker has begun
        _advise(spec, writer, task, machine)
    return outcome


def _vram(strategy: Strategy, task: LoadTask, machine: Machine) -> dict[str, Any]:
    """Why nobody tells of the device's memory and, of a load to one, what theory says of it, evenly over the load."""
    vram = vram_document(machine, task.options)
    why_none = vram["reason"]
    if why_none and task.pool is Pool.VRAM and strategy.why_not(task) is None:
        told = explanation_of(strategy, task)
        columns = told.series.columns(_COLUMNS, max(told.work_bytes, 1))
        vram["theory_bytes"] = [0 if column is None else column.vram_bytes or 0 for column in columns]
    return vram


def _loaded(
    spec: RunSpec,
    writer: CaptureWriter,
    task: LoadTask,
    theory: Theory,
    machine: Machine,
    cancellation: Cancellation,
    waiting: WorkerProcess | None,
    devices: Devices,
) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        wanted = {
            "strategy": spec.strategy,
            "checkpoint": str(task.checkpoint.path.absolute()),
            "tiny": str(stack.enter_context(tiny_twin(task))),
            "heap_bytes": theory.peak.heap_bytes or 0,
            "options": _for_worker(spec.options),
            "forward": spec.forward,
            "scratch": stack.enter_context(_scratch_folder(spec, task)),
            "history": str(stack.enter_context(_history_file(spec, writer)) or ""),
        }
        limited: Confinement | None = None
        if spec.limit_bytes is not None:
            try:
                limited = stack.enter_context(confined(spec.limit_bytes))
            except RunError as error:
                return outcome_document("refused", error.message)
        remarks = [_prepared(spec, writer, task, cancellation)]
        wish = cancellation.wish()
        if wish is not None:
            gone = f": {GONE}" if wish is Ending.ABANDONED else ""
            return outcome_document("cancelled", f"cancelled before the worker began{gone}")
        try:
            # One that waited may have been killed meanwhile: it was nobody's loss.
            fit = waiting is not None and waiting.alive and limited is None  # a limit's worker is born inside it
            worker = waiting if waiting is not None and fit else _spawned(stack, spec, limited)
        except subprocess.SubprocessError:
            return outcome_document(
                "refused", "no memory limit can be set: the worker may not be moved into its cgroup"
            )
        try:
            limited = limited.settled(worker.pid, lambda: worker.alive) if limited is not None else None
        except RunError as error:
            return outcome_document("refused", f"no memory limit can be set: {error.message}")
        remarks.append(limited.bias if limited is not None else "")
        end = stack.enter_context(EndWatch(machine, limited, spec.timeout_s))  # the worker waits still
        _advise(spec, writer, task, machine)  # now, while it imports torch, and not only when it has died
        files = [file.path for file in task.checkpoint.files]
        outcome = watch(
            worker, wanted, writer, cancellation,
            files=files, devices=devices, limited=limited, end=end,
        )  # fmt: skip
    if outcome["outcome"] == "completed":
        remarks.append(find(spec.strategy).remark(task))
    outcome["message"] = "; ".join(filter(None, [outcome["message"], *remarks]))
    return outcome


@contextlib.contextmanager
def _history_file(spec: RunSpec, writer: CaptureWriter) -> Iterator[Path | None]:
    """Where the worker writes what the device's allocator did, if that was asked for; it ends in the capture."""
    if not spec.allocator_history:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="meminspect-") as folder:
        path = Path(folder) / "history.json"
        yield path
        if path.exists():  # a worker that was killed has written none, or half of one
            with contextlib.suppress(ValueError):
                writer.fact("allocator_history", json.loads(path.read_text()))


def _scratch_folder(spec: RunSpec, task: LoadTask) -> contextlib.AbstractContextManager[str]:
    """Where the strategy may write what it leaves on disk; empty where it leaves nothing."""
    if not find(spec.strategy).offloads(task):
        return contextlib.nullcontext("")
    return tempfile.TemporaryDirectory(prefix="meminspect-", ignore_cleanup_errors=True)


def _for_worker(options: LoadOptions) -> dict[str, Any]:
    """The options as JSON has them; what is in the user's own model, the worker sees for itself."""
    own = options.model and dataclasses.replace(options.model, parameters=None)
    return dataclasses.asdict(dataclasses.replace(options, model=own))


def _advise(spec: RunSpec, writer: CaptureWriter, task: LoadTask, machine: Machine) -> None:
    """Write down what would do better: whatever becomes of the run, its death included."""
    budgets = (machine.usable_bytes, spec.limit_bytes)
    ram_bytes = min(budget for budget in budgets if budget is not None)
    where = task.options.device, task.options.interpreter
    gpu = machine.gpu(*where)
    vram_bytes = None if gpu is None else gpu.free_bytes
    shared = task.pool is Pool.VRAM and machine.shares_memory_with(*where)
    mapping_bytes = machine.largest_mapping_bytes
    writer.fact("better", better_than(spec.strategy, task, ram_bytes, mapping_bytes, vram_bytes, shared=shared))


def _spawned(stack: contextlib.ExitStack, spec: RunSpec, limited: Confinement | None) -> WorkerProcess:
    return stack.enter_context(WorkerProcess(spec.options.interpreter.executable, limited))


def _prepared(spec: RunSpec, writer: CaptureWriter, task: LoadTask, cancellation: Cancellation) -> str:
    """Bring the page cache into the state that the run asks for; returns what has not succeeded.

    The kernel charges a page of a file to whoever reads it first: under a limit it has to be the worker.
    """
    state = spec.cache or ("cold" if spec.limit_bytes is not None else None)
    if state is None:
        return ""
    writer.fact("preparing", PREPARING[state])
    try:
        return prepare_cache(state, task.checkpoint, cancellation.requested)
    finally:
        writer.fact("preparing", "")


if __name__ == "__main__":
    main()
