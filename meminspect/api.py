"""The Python face: `run` loads a checkpoint, or runs a script, in a process of its own; `record` watches this one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from meminspect.capture.library import default_folder, new_path
from meminspect.checkpoint import read_checkpoint
from meminspect.engine.own_model import own_model, with_model_described
from meminspect.engine.preflight import require_device
from meminspect.engine.script import SCRIPT, script_of
from meminspect.engine.session import Session
from meminspect.engine.spec import RunSpec
from meminspect.errors import UsageError
from meminspect.inside import RECORD, Recorder, read_result
from meminspect.sampling.interpreter import OURS, open_interpreter
from meminspect.sampling.machine import read_machine
from meminspect.strategies import PLUGGED_IN, LoadOptions, find
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from meminspect.checkpoint import Checkpoint
    from meminspect.result import RunResult

    Where = str | os.PathLike[str]

__all__ = ["record", "run"]


def run(
    checkpoint: Where | None = None,
    strategy: str = "stream",
    *,
    script: Sequence[str] = (),
    entry: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    init_dtype: str = "float32",
    read_to: str = "device",
    quantisation: str = "int8",
    max_memory_bytes: int | None = None,
    read_ahead: str | None = None,
    trust_pickle: bool = False,
    python: str | None = None,
    model: str | None = None,
    cache: Literal["cold", "warm"] | None = None,
    limit_bytes: int | None = None,
    timeout_s: float | None = None,
    forward: bool = False,
    force: bool = False,
    capture: Where | None = None,
) -> RunResult:
    """Load a checkpoint in a worker process and measure it, as `meminspect run` does; nothing is printed.

    Args:
        checkpoint: a file or its folder; optional for a script.
        strategy: one of `meminspect.strategies.STRATEGIES`; it says nothing where code of yours is run.
        script: a script of yours and its arguments, to run instead; what it prints is kept in the capture.
        entry: "module:function", to call instead of running a script; `script` is its arguments then.
        device: where the loaded model shall be.
        dtype: its dtype; None for the checkpoint's own.
        init_dtype: in which strategies build a model with random weights.
        read_to: "device" or "host", with a device.
        quantisation: "int8" or "nf4", for strategies that quantise.
        max_memory_bytes: of the model that may stay on its device, for those that can leave the rest on disk.
        read_ahead: "populate", "thread" or "willneed", for mmap-assign: see `meminspect.stream.read_ahead`.
        trust_pickle: let a pickle run whatever code it names.
        python: the interpreter to load in; None for this one.
        model: "module:factory", a model of yours to load into.
        cache: the checkpoint in the page cache at the start; None: as it is.
        limit_bytes: of memory, for the worker.
        timeout_s: how long it may take.
        forward: call the loaded model once.
        force: run although it is predicted not to fit.
        capture: where the capture goes; None: among those that the app's history lists.

    Returns:
        The result, also where the run has failed: see `outcome`.

    Raises:
        UsageError: what is asked for makes no sense.
        CheckpointError: the checkpoint cannot be read.
        CaptureError: the capture cannot be written.
        RunError: the machinery broke.
    """
    own = script_of(script, entry) if script or entry is not None else None
    interpreter = (
        OURS if python is None else open_interpreter(python, needs_torch=own is None, also=PLUGGED_IN.packages)
    )
    found = None if checkpoint is None else read_checkpoint(Path(checkpoint))
    asked = None if model is None else own_model(model)
    options = LoadOptions(
        device, dtype, init_dtype, read_to, quantisation, trust_pickle, interpreter, asked, max_memory_bytes,
        read_ahead,
    )  # fmt: skip
    if own is None:
        if found is None:
            raise UsageError("run() needs a checkpoint", "or a script of yours: run(script=['load.py'])")
        strategy = find(strategy).id
        options = with_model_described(options, found)
        require_device(task_for(found, options), read_machine())
    name, subject = (strategy, "") if own is None else (SCRIPT, own.name)
    spec = RunSpec(
        None if found is None else found.path, name, _capture_path(capture, found, subject, name), options,
        force=force, cache=cache, limit_bytes=limit_bytes, timeout_s=timeout_s, forward=forward, script=own,
    )  # fmt: skip
    session = Session(spec)
    try:
        session.join()
    finally:
        session.cancel()
        session.wait()
    return read_result(spec.capture)


def _capture_path(capture: Where | None, checkpoint: Checkpoint | None, own: str, name: str) -> Path:
    if capture is None:
        subject = Path(own) if own or checkpoint is None else checkpoint.path
        return new_path(default_folder(), subject, name)
    path = Path(capture).absolute()
    if path.exists():
        raise UsageError(f"{path} exists already", "name another file, or remove it")
    return path


def record(capture: Where | None = None, *, checkpoint: Where | None = None) -> Recorder:
    """Watch what this process does in a `with` block, and write the same capture as `run`.

    ```python
    with meminspect.record() as recording:
        model.load_state_dict(torch.load("model.pth"))
    print(recording.result.peak.rss_bytes, recording.result.patterns)
    ```

    From inside less can be seen than from a process of its own:

    - The baseline is what the process held when the block began: imports, and models that were loaded before.
    - What other threads do in the meantime counts with it, whatever they do.
    - The kernel's high-water mark is not reset, for it is yours as well. The peak is exact (`result.exact`) only if
      the process never held more before; else it is the highest of the readings, every 40 ms and between tensors.
    - Tensors that existed before have no names, and functions that were imported by name before
      (`from torch import load`) are not seen. torch itself is watched from its import on, before or in the block.
    - Samples come from a thread: a call that keeps Python's lock delays them (`document["overhead"]["max_gap_ms"]`).
    - Where the process is killed, the capture ends some 100 ms before, and nobody says why.

    `meminspect.mark()` in the block sets the baseline anew, `meminspect.mark("loaded")` ends the load.

    Args:
        capture: where it goes; None: among those that the app's history lists.
        checkpoint: what will be loaded, for the floor and the page cache; None: files are looked into as they come.

    Raises:
        UsageError: there is a file of that name.
        CheckpointError: the checkpoint cannot be read.
        CaptureError: the capture cannot be written.
    """
    found = None if checkpoint is None else read_checkpoint(Path(checkpoint))
    own = Path(sys.argv[0] if sys.argv else "").name or "python"
    return Recorder(_capture_path(capture, found, own, RECORD), found)
