"""The course of a worker's life: import, wait for what to do, warm-up, baseline, load, touch, account, verify."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meminspect.capture.ring import RingWriter
from meminspect.sampling.own_memory import largest_rss_bytes, own_memory
from meminspect.sampling.procfs import why_no_pools
from meminspect.worker import allocator
from meminspect.worker.ballast import populate
from meminspect.worker.failure import failure_of
from meminspect.worker.lifeline import die_with, prefer_as_victim
from meminspect.worker.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from meminspect.capture.records import Reading
    from meminspect.checkpoint import Checkpoint
    from meminspect.strategies import LoadOptions, LoadTask, Strategy
    from meminspect.worker.device import DeviceBooks
    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["main"]

_MANY: Final = 5_000  # tensors: beyond it, an event for each tiny one would cost as much as the load
_TINY_BYTES: Final = 64 << 10
_DEVICE_LOOK_S: Final = 0.3  # twice what it takes to ask the driver for a GPU, with the pause before
_LOOK_S: Final = 0.25  # two samples of the supervisor


def main(spec: int, ring: int, lifeline: int) -> None:
    """Run one strategy and report into the ring.

    Args:
        spec: descriptor of a pipe that brings the run's specification, a line of JSON (`engine.supervisor`).
        ring: descriptor of the event ring.
        lifeline: descriptor of the pipe whose other end the supervisor holds.
    """
    die_with(lifeline)
    prefer_as_victim()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    recorder = Recorder(RingWriter(ring), own_memory(), allocator.free_bytes)
    recorder.enabled = True
    try:
        _import(recorder)
        with os.fdopen(spec) as file:
            wanted = json.loads(file.readline())
        _run(wanted, recorder)
    except BaseException as error:  # noqa: BLE001 - whatever the loaded code raises is the run's outcome
        failure = failure_of(error)
        recorder.report("failure", failure)
        if recorder.device is not None and failure["kind"] == "out_of_memory":
            _report_shortage(recorder.device, recorder)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # no atexit, no destructors: a state that has run out of memory is not to be trusted
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _import(recorder: Recorder) -> None:
    """All that can be done before anybody has said what to load."""
    recorder.phase("import")
    import torch

    import meminspect.checkpoint
    import meminspect.strategies
    import meminspect.worker.hooks
    import meminspect.worker.recipe  # noqa: F401 - for those who import names from these modules later

    recorder.report(
        "environment",
        {"python": sys.version.split()[0], "executable": sys.executable, "pid": os.getpid(),
         "torch": torch.__version__, "safetensors": _safetensors_version(), "threads": torch.get_num_threads()},
    )  # fmt: skip


def _safetensors_version() -> str | None:
    try:
        from safetensors import __version__
    except ImportError:
        return None
    return __version__


def _run(wanted: dict[str, Any], recorder: Recorder) -> None:
    from meminspect.checkpoint import read_checkpoint
    from meminspect.strategies import LoadOptions, find
    from meminspect.worker.device import books_for
    from meminspect.worker.forward import first_forward, warm_up
    from meminspect.worker.storage import StorageBooks

    strategy = find(wanted["strategy"])
    options = LoadOptions.from_document(wanted["options"])
    task = _task(read_checkpoint(Path(wanted["checkpoint"])), options)
    if len(task.checkpoint.tensors) > _MANY:
        recorder.tiny_bytes, recorder.used_bytes = _TINY_BYTES, allocator.used_bytes
    if strategy.packages:
        recorder.report("packages", {package.name: version(package.name) for package in strategy.packages})
    recorder.phase("warm-up")
    recorder.enabled = False
    tiny = _tiny(Path(wanted["tiny"]), options)
    if wanted.get("scratch"):
        tempfile.tempdir = wanted["scratch"]  # which the supervisor removes, however we end
    load, tracker = _prepared(strategy, tiny, recorder)
    model = load()
    _finish(model, recorder, tracker)
    if wanted["forward"]:
        warm_up(model)
    del model
    load, tracker = _prepared(strategy, task, recorder)
    populate(wanted["heap_bytes"])
    device = books_for(options.device)
    hollow_bytes = _settle(recorder, device)
    recorder.enabled = True
    recorder.device = device
    if device is not None and wanted.get("history"):
        recorder.naming = device.history(Path(wanted["history"]))
    books = StorageBooks(task.checkpoint.files, recorder)
    _be_seen(device)
    baseline, resets = recorder.reading("baseline", reset=True)
    recorder.report(
        "baseline",
        {**_held(baseline), "resets": resets, "retained_bytes": _kept(hollow_bytes if recorder.tiny_bytes else 0),
         "used_bytes": recorder.used_bytes(), "integrated": device and device.integrated()},
    )  # fmt: skip

    started_ns = time.monotonic_ns()
    model = load()
    recorder.report("returned", {"t_ns": time.monotonic_ns(), "started_ns": started_ns})
    _finish(model, recorder, tracker)
    if device is not None:
        device.wait()
    recorder.report("resident", {"t_ns": time.monotonic_ns(), "started_ns": started_ns})
    _be_seen()
    window, _ = recorder.reading("resident", reset=True)
    recorder.report(
        "window",
        {**_held(window), "retained_at_peak_bytes": recorder.retained_at_peak_bytes,
         "used_at_peak_bytes": recorder.used_at_peak_bytes},
    )  # fmt: skip
    books.close()
    if tracker.attribution is not None:
        recorder.report("attribution", tracker.attribution.document(model))
    if device is not None:
        device.write_history()

    _report_steady(model, recorder)
    if wanted["forward"]:
        first_forward(model, recorder)
    recorder.phase("verify")
    from meminspect.worker.verify import verify

    recorder.report("tensors", verify(model, task, strategy))
    recorder.report("hooks", {"hooks_s": recorder.hooks_s, "events": recorder.events,
                              "event_us_median": recorder.event_us_median})  # fmt: skip
    recorder.report("finished", {})


def _tiny(path: Path, options: LoadOptions) -> LoadTask:
    """What the warm-up loads; where only so much may stay on the device, with room for all but its last layer."""
    from meminspect.checkpoint import read_checkpoint
    from meminspect.strategies.task import task_for

    task = task_for(read_checkpoint(path), replace(options, model=None))
    if options.max_memory_bytes is None:
        return task
    return replace(task, options=replace(task.options, max_memory_bytes=task.floor_bytes))


def _task(checkpoint: Checkpoint, options: LoadOptions) -> LoadTask:
    """What is to be loaded; the user's own model is looked at here, rather than sent through a pipe of 64 KiB."""
    from meminspect.strategies.task import task_for
    from meminspect.worker.models.own import described

    if options.model is not None:
        options = replace(options, model=described(options.model, checkpoint.config or {}))
    return task_for(checkpoint, options)


def _prepared(strategy: Strategy, task: LoadTask, recorder: Recorder) -> tuple[Callable[[], nn.Module], Tracker]:
    """Everything that is to be done before the baseline; returns what is left to do, and what will follow it."""
    from meminspect.worker.hooks import installed
    from meminspect.worker.hooks.derived import Attribution
    from meminspect.worker.hooks.modules import constructed, plan_construction
    from meminspect.worker.hooks.tracker import Tracker
    from meminspect.worker.recipe import default_dtype, execute, prepare

    tracker = Tracker(recorder, task.checkpoint)
    tracker.attribution = Attribution() if strategy.packages else None
    recipe = prepare(strategy, task)
    with default_dtype(strategy.built_dtype(task)):
        construction = tracker.construction = plan_construction(recipe.build)

    def load() -> nn.Module:
        with installed(tracker), default_dtype("float32"):
            return execute(recipe, lambda: constructed(tracker, recipe.build, construction))

    return load, tracker


def _be_seen(device: DeviceBooks | None = None) -> None:
    """Give the supervisor the time for a look where nobody else can see how much is in memory now.

    Args:
        device: one of which it is to see what the driver counts.
    """
    if why_no_pools() or device is not None:
        time.sleep(_LOOK_S if device is None else _DEVICE_LOOK_S)


def _held(reading: Reading | None) -> dict[str, int | None]:
    """What the worker sees of its memory, as a report."""
    if reading is not None:
        return reading._asdict()
    return {**dict.fromkeys(("heap_bytes", "file_bytes", "pinned_bytes")), "high_water_bytes": largest_rss_bytes()}


def _finish(model: nn.Module, recorder: Recorder, tracker: Tracker) -> None:
    from meminspect.worker.offloaded import offloaded
    from meminspect.worker.resident import touch

    recorder.phase("finalise")
    on_disk = offloaded(model)
    left = [
        name
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_meta and name not in on_disk
    ]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise RuntimeError(f"left on the meta device, since the checkpoint lacks them: {', '.join(left[:3])}{more}")
    touch(model, recorder, tracker.is_mapped, tracker.touched)


def _report_steady(model: nn.Module, recorder: Recorder) -> None:
    from meminspect.worker.resident import live_bytes

    gc.collect()
    _be_seen()
    steady, _ = recorder.reading("steady")
    retained_bytes = allocator.free_bytes()
    trimmed = recorder.reading("trimmed")[0] if allocator.trim() else None
    recorder.report(
        "steady",
        {"live_bytes": live_bytes(model), "steady": _held(steady), "retained_bytes": retained_bytes,
         "trimmed": None if trimmed is None else trimmed._asdict(),
         "fixed_mmap_threshold": "MALLOC_MMAP_THRESHOLD_" in os.environ},
    )  # fmt: skip


def _settle(recorder: Recorder, device: DeviceBooks | None) -> int:
    """Give back what imports and warm-up have freed, so that the load does not seem to cost less than it does.

    Returns:
        Bytes that the allocator has given back and still counts as free: pages amid its arenas.
    """
    gc.collect()
    heap_bytes, arena_bytes = recorder.heap_bytes(), allocator.arena_bytes()
    allocator.trim()
    if device is not None:
        device.settle()
    return max(0, heap_bytes - recorder.heap_bytes() - (arena_bytes - allocator.arena_bytes()))


def _kept(hollow_bytes: int) -> int | None:
    """What the allocator keeps of freed memory, but for what it has no pages of: small objects will fill that again."""
    free_bytes = allocator.free_bytes()
    return None if free_bytes is None else free_bytes - hollow_bytes


def _report_shortage(device: DeviceBooks, recorder: Recorder) -> None:
    """What the device had left, and what has been recorded of it: as far as it still answers."""
    with contextlib.suppress(Exception):
        recorder.report("shortage", device.shortage())
        device.write_history()
