"""What one run is, as it travels from the command to the supervisor and into the capture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meminspect.engine.script import Script
from meminspect.strategies import LoadOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.engine.preparation import CacheState

__all__ = ["RunSpec"]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run of one strategy, or of a script of the user's own; only that needs no checkpoint."""

    checkpoint: Path | None
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
    script: Script | None = None

    def document(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint.absolute())
        return {**dataclasses.asdict(self), "checkpoint": checkpoint, "capture": str(self.capture)}

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> RunSpec:
        """The inverse of `document`."""
        fields = dict(fields)
        fields.update(
            checkpoint=None if fields["checkpoint"] is None else Path(fields["checkpoint"]),
            capture=Path(fields["capture"]),
            options=LoadOptions.from_document(fields["options"]),
            script=None if fields.get("script") is None else Script.from_document(fields["script"]),
        )
        return RunSpec(**fields)
