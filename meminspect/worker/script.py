"""Runs the user's own script, or a function of a module, as Python would, and reports what it does into the ring."""

from __future__ import annotations

import atexit
import builtins
import importlib.machinery
import json
import os
import signal
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meminspect.capture.ring import RingWriter
from meminspect.sampling.own_memory import own_memory
from meminspect.worker import allocator
from meminspect.worker.failure import failure_of
from meminspect.worker.lifeline import die_with, prefer_as_victim
from meminspect.worker.onlooker import Onlooker, UntouchedMemory
from meminspect.worker.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from meminspect.checkpoint import Checkpoint

__all__ = ["main"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120 - compared as text
_kept: list[object] = []  # what the entry point has returned: the model, if any


def main(spec: int, ring: int, lifeline: int) -> None:
    """Run what the specification names, and end as it ends: this returns, or raises its SystemExit.

    Args:
        spec: descriptor of a pipe that brings the run's specification, a line of JSON (`engine.script_run`).
        ring: descriptor of the event ring.
        lifeline: descriptor of the pipe whose other end the supervisor holds.
    """
    die_with(lifeline)
    prefer_as_victim()
    for descriptor in (spec, ring, lifeline):
        os.set_inheritable(descriptor, False)  # nothing that the script starts has a use for them
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the supervisor, which ignores it, has passed that on
    recorder = Recorder(RingWriter(ring), UntouchedMemory(own_memory()), allocator.free_bytes)
    recorder.enabled = True
    recorder.report(
        "environment",
        {"python": sys.version.split()[0], "executable": sys.executable, "pid": os.getpid(), "torch": None,
         "safetensors": None},
    )  # fmt: skip
    with os.fdopen(spec) as file:  # only now: that there is a report says that all of ours is in memory
        wanted = json.loads(file.readline())
    onlooker = Onlooker(recorder, _checkpoint(wanted["checkpoint"]))
    # What is registered first is called last: when threads have been joined, and all that the script has registered.
    atexit.register(_finish, onlooker, os.getpid())
    path, entry, arguments = wanted["path"], wanted["entry"], wanted["arguments"]
    run = _prepared_entry(entry, arguments) if entry else _prepared_script(path, arguments)
    onlooker.begin()
    try:
        _kept.append(run())
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - shown as Python shows it
        recorder.report("failure", failure_of(error))
        trace = _without_us(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None


def _finish(onlooker: Onlooker, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that ends by sys.exit comes by, too
        onlooker.end()
        onlooker.recorder.report("finished", {})


def _checkpoint(path: str | None) -> Checkpoint | None:
    if path is None:
        return None
    from meminspect.checkpoint import read_checkpoint

    return read_checkpoint(Path(path))


def _prepared_script(path: str, arguments: Sequence[str]) -> Any:
    """What runs a script as `python PATH ARGUMENTS` does, from its own folder's modules on."""
    sys.argv[:] = [path, *arguments]
    absolute = os.path.abspath(path)  # noqa: PTH100 - of the text, as Python has it
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))  # noqa: PTH120
    module = types.ModuleType("__main__")
    module.__file__ = absolute
    module.__builtins__ = builtins  # type: ignore[attr-defined]
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", absolute)
    module.__cached__ = None  # type: ignore[attr-defined]
    sys.modules["__main__"] = module

    def run() -> None:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib may be the script's own
            source = file.read()
        exec(compile(source, absolute, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what was asked for

    return run


def _prepared_entry(entry: str, arguments: Sequence[str]) -> Any:
    """What calls `module:function`, as `python -c` from the current folder does."""
    sys.argv[:] = [entry, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path is text
    sys.modules["__main__"] = types.ModuleType("__main__")
    module_name, _, path = entry.partition(":")

    def run() -> object:
        __import__(module_name)  # which leaves its own frames out of a traceback, as an import statement does
        found: Any = sys.modules[module_name]
        for part in path.split("."):
            found = getattr(found, part)
        return found()

    return run


def _without_us(trace: TracebackType | None) -> TracebackType | None:
    """A traceback as Python would show it: without the frames of what has started the script, and of the hooks."""
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    last = trace
    while last is not None:
        while last.tb_next is not None and _is_ours(last.tb_next):
            last.tb_next = last.tb_next.tb_next
        last = last.tb_next
    return trace


def _is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(_OURS)
