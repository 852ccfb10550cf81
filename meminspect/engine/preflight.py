"""Whether a run may start at all: the user's machine comes first."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.analysis.verdict import PROCESS_BYTES, unreclaimable_bytes, verdict, vram_bytes
from meminspect.capture.records import Pool
from meminspect.devices import index_of, kind_of
from meminspect.errors import UsageError
from meminspect.text import shown
from meminspect.theory.ledger import Pools
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from meminspect.sampling.interpreter import Interpreter
    from meminspect.sampling.machine import Machine
    from meminspect.strategies import LoadTask, Strategy
    from meminspect.theory.ledger import Theory

__all__ = ["refusal", "require_device"]

_AMD_GPUS = Path("/dev/kfd")  # of AMD's driver
_WINDOWS_GPUS = Path("/dev/dxg")  # of Windows' driver, where Linux runs in it
_OLDEST_FOR_XPU: Final = (2, 5)  # torch.xpu.memory_stats
_BUILDS: Final = {"cuda": ("CUDA", ("cu", "rocm")), "xpu": ("XPU", ("xpu",))}  # how the versions end that have it
_FORCE = "it runs only if that is forced (--force, or yes to the question in the app)"


def refusal(
    strategy: Strategy,
    task: LoadTask,
    theory: Theory,
    machine: Machine,
    *,
    force: bool,
    limit_bytes: int | None = None,
) -> str | None:
    """In one sentence why the run is not started; None when it is.

    One that is confined below what the machine has left can hurt itself alone, and may well be meant to.
    """
    why_not = strategy.why_not(task)
    missing = _missing_device(task, machine) if why_not is None else None
    if missing is not None:
        why_not = f"{missing.words}: {missing.hint}"
    if why_not is not None or force:
        return why_not
    confined = limit_bytes is not None and limit_bytes <= machine.usable_bytes
    short = _short_of_disk(strategy.scratch_bytes(task)) or ("" if confined else _short(task, theory, machine))
    if short:
        return f"{short}: {_FORCE}"
    too_large = strategy.why_not(task, machine.largest_mapping_bytes)
    return None if too_large is None else f"{too_large}: {_FORCE}"


def _short(task: LoadTask, theory: Theory, machine: Machine) -> str:
    """What there is not enough of, by theory; empty where all of it fits, or nobody knows."""
    where = task.options.device, task.options.interpreter
    gpu, shared = machine.gpu(*where), machine.shares_memory_with(*where)
    needed, usable = unreclaimable_bytes(theory.peak), machine.usable_bytes
    if shared:
        needed += vram_bytes(theory.peak)
    if verdict(dataclasses.replace(theory, peak=Pools(heap_bytes=needed)), usable) == "does_not_fit":
        what = "of the memory that host and device share," if shared and task.pool is Pool.VRAM else "of heap"
        return (
            f"predicted to need {format_bytes(needed)} {what} beside the process's own {format_bytes(PROCESS_BYTES)}, "
            f"where {format_bytes(usable)} can be had"
        )
    on_device = vram_bytes(theory.peak)
    if shared or gpu is None or gpu.free_bytes is None or on_device <= gpu.free_bytes:
        return ""
    free = format_bytes(gpu.free_bytes)
    return f"predicted to need {format_bytes(on_device)} of {task.options.device}'s memory, of which {free} is free"


def _short_of_disk(scratch_bytes: int) -> str:
    """Where there is no room for what is written to a temporary folder; empty where there is."""
    if not scratch_bytes:
        return ""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return "it writes to a temporary folder, and there is none that can be written to (TMPDIR names one)"
    free_bytes = shutil.disk_usage(folder).free
    if scratch_bytes <= free_bytes:
        return ""
    return (
        f"it writes {format_bytes(scratch_bytes)} to {shown(folder)}, where {format_bytes(free_bytes)} is free "
        "(TMPDIR names another folder)"
    )


def require_device(task: LoadTask, machine: Machine) -> None:
    """Check that there is something to load to, before anything is started for it.

    Raises:
        UsageError: the task is for a device that this machine, or the worker's torch, does not have.
    """
    missing = _missing_device(task, machine)
    if missing is not None:
        raise UsageError(missing.words, missing.hint)


class _MissingDevice(NamedTuple):
    words: str
    hint: str


def _missing_device(task: LoadTask, machine: Machine) -> _MissingDevice | None:
    device, interpreter = task.options.device, task.options.interpreter
    kind = kind_of(device)
    if kind == "cpu":
        return None
    torch, plan = machine.torch_of(interpreter) or "", f"meminspect plan --device {device} says what it would take"
    why_none = _why_no_gpu(device, machine, interpreter)
    old = interpreter.lacks("torch", _OLDEST_FOR_XPU) if kind == "xpu" else None
    if why_none:
        return _MissingDevice(f"there is no {device} here: {why_none}", plan)
    if old is not None:
        words = f"nothing can be loaded to {device}: the environment of --python {old}, which counts no memory there"
        return _MissingDevice(words, f"install torch 2.5 or newer with XPU, or {plan}")
    built_for = torch.partition("+")[2]  # of a build of somebody's own it says nothing
    name, beginnings = _BUILDS.get(kind, ("", ("",)))
    if built_for and not built_for.startswith(beginnings):
        words = f"nothing can be loaded to {device}: the worker's torch, {shown(torch)}, is built without {name}"
        return _MissingDevice(words, f"install a build with {name} (pytorch.org/get-started), or {plan}")
    return None


def _why_no_gpu(device: str, machine: Machine, interpreter: Interpreter) -> str:
    """Why the machine has no such GPU; empty where it has one, or only torch can tell."""
    kind, gpus = kind_of(device), machine.gpus_for(device, interpreter)
    if kind == "cuda" and "+rocm" in (machine.torch_of(interpreter) or ""):  # for which AMD's GPUs are cuda, too
        why_none = f"the worker's torch is built for ROCm, and there is no AMD GPU ({_AMD_GPUS})"
        return "" if _AMD_GPUS.exists() else why_none
    if kind == "xpu":  # how many it counts, tiles or cards, is for its driver to say; Windows has it, under Linux
        return "" if gpus or _WINDOWS_GPUS.exists() else "no Intel GPU (/sys/class/drm)"
    if kind == "mps":
        system = f"{platform.system()} on {platform.machine()}"
        return "" if gpus else f"mps is Metal on Apple silicon, and this is {system}"
    if not gpus:
        return machine.why_no_vram(device, interpreter)
    return "" if index_of(device) < len(gpus) else f"CUDA sees {len(gpus)} GPU{'s' * (len(gpus) > 1)}"
