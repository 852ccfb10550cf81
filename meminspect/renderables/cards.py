"""A checkpoint and a machine in a few words: the lines that every verb begins with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from meminspect.renderables.texts import safe
from meminspect.text import shown
from meminspect.units import format_bytes, format_count, format_share

if TYPE_CHECKING:
    from rich.text import Text

    from meminspect.analysis.subject import Subject
    from meminspect.sampling.machine import Machine
    from meminspect.sampling.nvml import Gpu

__all__ = ["checkpoint_card", "counted", "machine_card", "warnings_card"]

_SEPARATOR = " · "
_NAME_LIMIT = 60
_WARNINGS = 8


def checkpoint_card(subject: Subject) -> list[Text]:
    """What it is, how much of it, where it lies: two lines."""
    document = subject.document
    sliced = subject.checkpoint.parallel_files
    name = os.path.basename(os.path.normpath(document["path"])) or document["path"]  # noqa: PTH119 - resolves no links
    first = (
        shown(name, _NAME_LIMIT),
        f"{document['layout']} layout",
        counted(document["shards"], "model-parallel slice" if sliced else "file"),
        counted(document["tensors"], "tensor"),
        f"{format_bytes(document['bytes'])}{_dtypes(subject)}",
    )
    fraction = subject.cached_fraction
    cached = "share in page cache not available" if fraction is None else f"{format_share(fraction)} in page cache"
    second = (
        document["architecture"] or "unknown architecture",
        *filter(None, [document["quantisation"]]),
        f"{format_count(document['parameters'])} parameters",
        f"{document['file_system'] or 'file system not available'}, {cached}",
    )
    return [safe(_SEPARATOR.join(first), "answer"), safe(_SEPARATOR.join(second))]


def machine_card(machine: Machine) -> Text:
    """What the machine has and allows: one line."""
    parts = [
        f"{format_bytes(machine.ram_total_bytes)} RAM",
        f"{format_bytes(machine.usable_bytes)} usable",
        _limit(machine),
    ]
    parts += [f"{gpu.name or 'GPU'}{_gpu_memory(gpu)}" for gpu in machine.gpus] or ["no GPU"]
    return safe(f"this machine: {_SEPARATOR.join(parts)}")


def _gpu_memory(gpu: Gpu) -> str:
    if gpu.unified:
        return " in unified memory"
    return "" if gpu.free_bytes is None else f" with {format_bytes(gpu.free_bytes)} free"


def _limit(machine: Machine) -> str:
    if machine.memory_limit_bytes is not None:
        return f"cgroup limit {format_bytes(machine.memory_limit_bytes)}"
    return "no cgroup limit" if machine.limit_is_known else "cgroup limit not available"


def warnings_card(subject: Subject) -> list[Text]:
    """What is odd about the checkpoint, one line each."""
    warnings = subject.document["warnings"]
    lines = [safe(f"warning: {warning}", "tight") for warning in warnings[:_WARNINGS]]
    if len(warnings) > _WARNINGS:
        lines.append(safe(f"… and {len(warnings) - _WARNINGS:,} more warnings: see --json", "quiet"))
    return lines


def counted(count: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _dtypes(subject: Subject) -> str:
    dtypes = sorted(subject.document["dtypes"].items(), key=lambda item: -item[1]["bytes"])
    if not dtypes:
        return ""
    return f" {dtypes[0][0]}" if len(dtypes) == 1 else f", mostly {dtypes[0][0]}"
