"""A checkpoint on this machine, and what each strategy would cost: all that is known before anything is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect.analysis.confinement import confined_theory, room_under
from meminspect.analysis.plan import make_plan
from meminspect.analysis.subject import read_subject
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.capture.records import Pool
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from meminspect.analysis.plan import Plan
    from meminspect.analysis.subject import Subject
    from meminspect.analysis.verdict import Aim
    from meminspect.checkpoint import Checkpoint
    from meminspect.strategies import LoadOptions, LoadTask

__all__ = ["Prospect", "prospect_of"]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is to be loaded, where, and every strategy's theory for it."""

    task: LoadTask
    subject: Subject
    plan: Plan


def prospect_of(
    checkpoint: Checkpoint,
    options: LoadOptions,
    *,
    ram_bytes: int | None = None,
    vram_bytes: int | None = None,
    limit_bytes: int | None = None,
    aim: Aim | None = None,
) -> Prospect:
    """Look at a checkpoint and the machine, and plan.

    Args:
        checkpoint: its headers.
        options: how it shall be loaded.
        ram_bytes: plan for this much free RAM instead of this machine's.
        vram_bytes: plan for this much free device memory instead.
        limit_bytes: a limit that the run will be confined to.
        aim: what there shall be least of; see `make_plan`.

    Raises:
        CheckpointError: what it holds makes no model.
    """
    task = task_for(checkpoint, options)
    subject = read_subject(checkpoint, task.architecture, task.note)
    machine = subject.machine
    usable_bytes = machine.usable_bytes if ram_bytes is None else ram_bytes
    where = options.device, options.interpreter
    gpu = machine.gpu(*where)
    plan = make_plan(
        task,
        usable_bytes if limit_bytes is None else min(usable_bytes, limit_bytes),
        gpu.free_bytes if vram_bytes is None and gpu is not None else vram_bytes,
        shared=machine.shares_memory_with(*where) and task.pool is Pool.VRAM and vram_bytes is None,
        aim=aim,
        largest_mapping_bytes=machine.largest_mapping_bytes if ram_bytes is None else None,
    )
    return Prospect(task, subject, _under(plan, limit_bytes))


def _under(plan: Plan, limit_bytes: int | None) -> Plan:
    """With every theory as the limit lets it be; verdicts and recommendation stay those of what is wanted."""
    room_bytes = room_under(limit_bytes, PROCESS_BYTES)
    if room_bytes is None:
        return plan
    rows = tuple(
        row if row.theory is None else dataclasses.replace(row, theory=confined_theory(row.theory, room_bytes))
        for row in plan.rows
    )
    return dataclasses.replace(plan, rows=rows)
