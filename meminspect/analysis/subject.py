"""What a verb is about: a checkpoint and the machine it lies on, as they are at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meminspect import page_cache
from meminspect.analysis.describe import cached_fraction, checkpoint_document
from meminspect.sampling.machine import read_machine
from meminspect.sampling.mounted import file_system_of

if TYPE_CHECKING:
    from meminspect.analysis.describe import Document
    from meminspect.architectures import Architecture
    from meminspect.checkpoint import Checkpoint
    from meminspect.sampling.machine import Machine

__all__ = ["Subject", "read_subject"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint, CHECKPOINT of the contract, the fraction of it in the page cache, and the machine."""

    checkpoint: Checkpoint
    document: Document
    cached_fraction: float | None
    machine: Machine


def read_subject(checkpoint: Checkpoint, architecture: Architecture | None, architecture_note: str = "") -> Subject:
    """Look at a checkpoint's files and at the machine.

    Args:
        checkpoint: its headers.
        architecture: what it was recognised as; None when that failed.
        architecture_note: why it is of no known architecture, or what had to be assumed.
    """
    residencies = [page_cache.cached_fraction(file.path) for file in checkpoint.files]
    document = checkpoint_document(
        checkpoint, architecture, residencies, file_system_of(checkpoint.path), architecture_note
    )
    return Subject(checkpoint, document, cached_fraction(checkpoint, residencies), read_machine())
