"""What every exporter is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.capture.store import CaptureReader

__all__ = ["Exporter"]


@dataclass(frozen=True)
class Exporter:
    """An export format; each lives in a file of its own, named after its id."""

    id: str
    summary: str
    write: Callable[[CaptureReader, IO[Any]], None]
    is_text: bool = True  # else what it writes is bytes
    needs: str = ""  # the option of a run, by its name in the capture's spec, without which there is nothing to write
