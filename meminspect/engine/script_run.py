"""One run of the user's own script: what `engine.supervisor` does for a strategy, without theory and warm-up."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.describe import checkpoint_document
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.cancellation import Ending
from meminspect.engine.end_watch import EndWatch
from meminspect.engine.explain import GONE, outcome_document
from meminspect.engine.limits import confined
from meminspect.engine.preparation import PREPARING, prepare_cache
from meminspect.engine.watching import devices_of, vram_document, watch
from meminspect.engine.worker_process import WorkerProcess
from meminspect.errors import RunError
from meminspect.page_cache import cached_fraction
from meminspect.sampling.machine import read_machine
from meminspect.sampling.mounted import file_system_of
from meminspect.sampling.nvml import open_nvml
from meminspect.sampling.procfs import why_no_pools
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from meminspect.capture.store import CaptureWriter
    from meminspect.checkpoint import Checkpoint
    from meminspect.engine.cancellation import Cancellation
    from meminspect.engine.limits import Confinement
    from meminspect.engine.script import Script
    from meminspect.engine.spec import RunSpec
    from meminspect.engine.worker_process import Streams
    from meminspect.sampling.machine import Machine
    from meminspect.strategies import LoadOptions

__all__ = ["describe_checkpoint", "run_script"]

_LONGEST_SOURCE: Final = 256 << 10
_PATIENCE_S: Final = 10.0
_INTERVAL_S: Final = 0.005


def run_script(
    spec: RunSpec, script: Script, writer: CaptureWriter, cancellation: Cancellation, streams: Streams | None
) -> dict[str, Any]:
    """Run it to its end, sampled and recorded; returns the outcome.

    Args:
        spec: the run.
        script: what it runs.
        writer: the capture.
        cancellation: the user's wish to end it.
        streams: its standard streams; None: what it prints is recorded.
    """
    opening = open_nvml()
    machine = read_machine(opening.nvml)
    checkpoint = None if spec.checkpoint is None else read_checkpoint(spec.checkpoint)
    _describe(spec, script, checkpoint, machine, writer)
    writer.fact("vram", vram_document(machine, spec.options))
    devices = devices_of(opening.nvml, machine, spec.options)
    with contextlib.ExitStack() as stack:
        limited: Confinement | None = None
        remarks = [_prepared(spec, checkpoint, writer, cancellation)]
        wish = cancellation.wish()
        if wish is not None:
            gone = f": {GONE}" if wish is Ending.ABANDONED else ""
            return outcome_document("cancelled", f"cancelled before the script began{gone}")
        try:
            if spec.limit_bytes is not None:
                limited = stack.enter_context(confined(spec.limit_bytes))
            worker = stack.enter_context(
                WorkerProcess(spec.options.interpreter.executable, limited, script=True, streams=streams)
            )
            limited = limited.settled(worker.pid, lambda: worker.alive) if limited is not None else None
        except (RunError, subprocess.SubprocessError) as error:
            why = error.message if isinstance(error, RunError) else "the script may not be moved into its cgroup"
            return outcome_document("refused", why)
        finally:
            for descriptor in set(streams or ()):  # a reader of what the script prints waits for its end, not for ours
                os.close(descriptor)
        remarks.append(limited.bias if limited is not None else "")
        end = stack.enter_context(EndWatch(machine, limited, spec.timeout_s, script=True))
        wanted = {
            "path": script.path,
            "entry": script.entry,
            "arguments": script.arguments,
            "checkpoint": None if spec.checkpoint is None else str(spec.checkpoint.absolute()),
        }
        _await_begun(worker)
        files = [] if checkpoint is None else [file.path for file in checkpoint.files]
        outcome = watch(
            worker, wanted, writer, cancellation,
            files=files, devices=devices, limited=limited, end=end,
        )  # fmt: skip
    outcome["message"] = "; ".join(filter(None, [outcome["message"], *remarks]))
    return outcome


def _await_begun(worker: WorkerProcess) -> None:
    """Wait until the worker has mapped its ring: a script may be over before a second sample tells what that is."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while worker.alive and not worker.ring.has_unread and time.monotonic() < deadline_s:
        time.sleep(_INTERVAL_S)


def _describe(
    spec: RunSpec, script: Script, checkpoint: Checkpoint | None, machine: Machine, writer: CaptureWriter
) -> None:
    """What is known before it begins."""
    if checkpoint is not None:
        describe_checkpoint(checkpoint, spec.options, writer)
    writer.fact("machine", machine.document())
    writer.fact("pools", {"reason": why_no_pools()})
    writer.fact("plan", {"work_bytes": 0, "usable_bytes": machine.usable_bytes})
    writer.fact("recipe", _source(script))


def describe_checkpoint(checkpoint: Checkpoint, options: LoadOptions, writer: CaptureWriter) -> None:
    """Write down what the code is known to load, and what a model of it must occupy."""
    task = task_for(checkpoint, options)
    residencies = [cached_fraction(file.path) for file in checkpoint.files]
    where = file_system_of(checkpoint.path)
    writer.fact("checkpoint", checkpoint_document(checkpoint, task.architecture, residencies, where, task.note))
    writer.fact("floor", {"floor_bytes": task.floor_bytes})


def _source(script: Script) -> str:
    """The text of the script as it is now, or what calls the function."""
    if script.entry:
        module, _, function = script.entry.partition(":")
        return f"import {module}\n\n{module}.{function}()\n"
    try:
        with open(script.path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as the user names it
            return file.read(_LONGEST_SOURCE)
    except OSError:  # the worker meets it, too
        return ""


def _prepared(spec: RunSpec, checkpoint: Checkpoint | None, writer: CaptureWriter, cancellation: Cancellation) -> str:
    """As the supervisor prepares the page cache for a strategy."""
    state = spec.cache or ("cold" if spec.limit_bytes is not None else None)
    if state is None or checkpoint is None:
        return ""
    writer.fact("preparing", PREPARING[state])
    try:
        return prepare_cache(state, checkpoint, cancellation.requested)
    finally:
        writer.fact("preparing", "")
