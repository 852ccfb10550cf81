"""Whether a run may start at all: the user's machine comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.analysis.verdict import PROCESS_BYTES, verdict
from meminspect.capture.records import Pool
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from meminspect.sampling.machine import Machine
    from meminspect.strategies import LoadTask, Strategy
    from meminspect.theory.ledger import Theory

__all__ = ["refusal"]

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
    why_not = strategy.why_not(task) or _no_device(task, machine)
    if why_not is not None or force:
        return why_not
    confined = limit_bytes is not None and limit_bytes <= machine.usable_bytes
    if not confined and verdict(theory, machine.usable_bytes) == "does_not_fit":
        return (
            f"predicted to need {format_bytes(theory.peak.heap_bytes)} of heap beside the process's own "
            f"{format_bytes(PROCESS_BYTES)}, where {format_bytes(machine.usable_bytes)} can be had: {_FORCE}"
        )
    too_large = strategy.why_not(task, machine.largest_mapping_bytes)
    return None if too_large is None else f"{too_large}: {_FORCE}"


def _no_device(task: LoadTask, machine: Machine) -> str | None:
    """In one sentence why nothing can be loaded to the task's device here; None when it can."""
    if task.pool is not Pool.VRAM:
        return None
    torch = machine.torch_version or ""
    if not machine.gpus:
        lacks = "this machine has no CUDA device that could be used"
    elif torch.endswith("+cpu"):
        lacks = f"the torch that is installed, {torch}, is built without CUDA"
    else:
        return None
    return f"{lacks}: meminspect plan --device {task.options.device} says what it would take"
