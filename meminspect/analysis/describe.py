"""The JSON documents of the machine-readable contract, from the objects that they describe.

Every key is always there; what is unknown is None. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from meminspect.sampling.file_system import network_note
from meminspect.sampling.mounted import UNKNOWN_FILE_SYSTEM
from meminspect.theory.metal_allocator import WHY_NOT_RESERVED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.analysis.plan import Plan, PlanRow
    from meminspect.architectures import Architecture
    from meminspect.checkpoint.model import Checkpoint
    from meminspect.page_cache import Residency
    from meminspect.theory.ledger import Theory

__all__ = ["Document", "cached_fraction", "checkpoint_document", "plan_document", "theory_document"]

Document = dict[str, Any]


def checkpoint_document(
    checkpoint: Checkpoint,
    architecture: Architecture | None,
    residencies: Sequence[Residency],
    file_system: str | None,
    architecture_note: str = "",
) -> Document:
    """CHECKPOINT of the contract.

    Args:
        checkpoint: its headers.
        architecture: what it was recognised as; None when that failed.
        residencies: for each of its files, in order, how much is in the page cache.
        file_system: the type of the file system that it lies on; one of a network becomes a warning.
        architecture_note: why it is of no known architecture, or what had to be assumed; becomes a warning.
    """
    tensors_in_file = [0] * len(checkpoint.files)
    for tensors in checkpoint.alike:
        tensors_in_file[tensors[0].storage.file] += len(tensors)
    largest = checkpoint.largest_tensor
    return {
        "path": str(checkpoint.path.absolute()),
        "layout": checkpoint.layout,
        "architecture": architecture.id if architecture else None,
        "files": [
            {
                "name": file.name,
                "bytes": file.nbytes,
                "tensors": tensors,
                "cached_fraction": cached.fraction,
                "cached_reason": cached.reason or None,
            }
            for file, tensors, cached in zip(checkpoint.files, tensors_in_file, residencies, strict=True)
        ],
        "shards": len(checkpoint.files),
        "tensors": _names(checkpoint),
        "parameters": _parameters(checkpoint, architecture),
        "bytes": checkpoint.nbytes,
        "largest_tensor": None if largest is None else {"name": largest.name, "bytes": largest.whole_nbytes},
        "largest_shard_bytes": max(checkpoint.shard_nbytes, default=None),
        "dtypes": {
            dtype: {"tensors": tensors, "bytes": nbytes} for dtype, (tensors, nbytes) in checkpoint.dtypes.items()
        },
        "quantisation": checkpoint.quantisation,
        "tied": [list(names) for names in checkpoint.tied],
        "file_system": file_system,
        "file_system_reason": None if file_system else UNKNOWN_FILE_SYSTEM,
        "warnings": [
            *filter(None, [network_note(file_system)]),
            *checkpoint.warnings,
            *filter(None, [architecture_note]),
        ],
    }


def _names(checkpoint: Checkpoint) -> int:
    """How many tensors there are, in however many files or chunks each."""
    if checkpoint.parallel_files or any(tensors[0].chunk for tensors in checkpoint.alike):
        return len({tensor.name for tensor in checkpoint.tensors})
    return len(checkpoint.tensors)


def _parameters(checkpoint: Checkpoint, architecture: Architecture | None) -> int:
    """Elements of the whole model: what every model-parallel file repeats counts once."""
    if not checkpoint.parallel_files or architecture is None:
        return checkpoint.parameters
    repeated = {parameter.name for parameter in architecture.parameters if parameter.split_dim is None}
    return sum(
        tensor.elements for tensor in checkpoint.tensors if tensor.storage.file == 0 or tensor.name not in repeated
    )


def cached_fraction(checkpoint: Checkpoint, residencies: Sequence[Residency]) -> float | None:
    """The fraction of all the checkpoint's files that is in the page cache; None if any file's is unknown."""
    sizes = [file.nbytes for file in checkpoint.files]
    known = [residency.fraction for residency in residencies if residency.fraction is not None]
    if len(known) < len(sizes) or not sum(sizes):
        return None
    return sum(size * fraction for size, fraction in zip(sizes, known, strict=True)) / sum(sizes)


def _knows_tensors_alone(theory: Theory) -> bool:
    return theory.peak.vram_allocated_bytes is not None and theory.peak.vram_reserved_bytes is None


def theory_document(theory: Theory) -> Document:
    """THEORY of the contract, and beside it the peak of all host pools together at one moment."""
    return {
        "floor_bytes": theory.floor_bytes,
        "peak": asdict(theory.peak),
        "peak_rss_bytes": theory.peak_rss_bytes,
        "steady": asdict(theory.steady),
        "vram_reserved_reason": WHY_NOT_RESERVED if _knows_tensors_alone(theory) else None,
        "bill": [{"item": line.item, "pool": line.pool, "bytes": line.nbytes} for line in theory.bill],
        "moved_bytes": theory.moved_bytes,
    }


def plan_document(plan: Plan, checkpoint: Mapping[str, Any], machine: Mapping[str, Any]) -> Document:
    """The document of `meminspect plan`.

    Args:
        plan: every strategy against the budgets.
        checkpoint: CHECKPOINT.
        machine: MACHINE.
    """
    return {
        "schema": "meminspect.plan/1",
        "checkpoint": dict(checkpoint),
        "machine": dict(machine),
        "budgets": {"ram_bytes": plan.ram_bytes, "vram_bytes": plan.vram_bytes},
        "recommended": plan.recommendation.strategy_id,
        "why": plan.recommendation.why,
        "strategies": [_row(row) for row in plan.rows],
    }


def _row(row: PlanRow) -> Document:
    return {
        "strategy": row.strategy.id,
        "available": row.why_not is None,
        "why_not": row.why_not,
        "verdict": row.verdict,
        "theory": None if row.theory is None else theory_document(row.theory),
    }
