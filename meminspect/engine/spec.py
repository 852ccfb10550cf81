"""What one run is, as it travels from the command to the supervisor and into the capture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meminspect.strategies import LoadOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.engine.preparation import CacheState

__all__ = ["RunSpec"]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run of one strategy."""

    checkpoint: Path
    strategy: str
    capture: Path
    options: LoadOptions = field(default_factory=LoadOptions)
    force: bool = False  # run although it is predicted not to fit
    cache: CacheState | None = None  # the checkpoint in the page cache at the start; None: as it is
    limit_bytes: int | None = None  # of memory, for the worker and what it starts; None: the machine's
    timeout_s: float | None = None  # from the moment the worker is told to begin; None: as long as it takes
    forward: bool = False  # call the model once when it is loaded
    allocator_history: bool = False  # record each allocation on the device
    repeat_index: int = 1
    repeat_of: int = 1

    def document(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {**dataclasses.asdict(self), "checkpoint": str(self.checkpoint.absolute()), "capture": str(self.capture)}

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> RunSpec:
        """The inverse of `document`."""
        fields = dict(fields)
        fields.update(
            checkpoint=Path(fields["checkpoint"]),
            capture=Path(fields["capture"]),
            options=LoadOptions.from_document(fields["options"]),
        )
        return RunSpec(**fields)
