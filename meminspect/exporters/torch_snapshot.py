"""`torch-snapshot`: what torch's allocator did on the device, as its own tools read it.

The form is that of `torch.cuda.memory._snapshot` (torch/cuda/memory.py), pickled as `_dump_snapshot` does: open it at
pytorch.org/memory_viz, or with `python -m torch.cuda._memory_viz trace_plot FILE`. Tensors' names are `user_metadata`.
"""

from __future__ import annotations

import pickle
from typing import IO, TYPE_CHECKING, Any, Final

from meminspect.errors import CaptureError
from meminspect.exporters.base import Exporter

if TYPE_CHECKING:
    from meminspect.capture.store import CaptureReader

__all__ = ["EXPORTER"]

_PROTOCOL: Final = 4  # what the viewer in the browser reads
_PAIRS: Final = ("segment_pool_id",)  # which JSON has no tuples for


def _write(capture: CaptureReader, file: IO[bytes]) -> None:
    history = capture.fact("allocator_history")
    if history is None:
        raise CaptureError(
            f"{capture.path} has no history of a device's allocator",
            "run with --device cuda --allocator-history to record one",
        )
    pickle.dump(_with_pairs(history), file, protocol=_PROTOCOL)


def _with_pairs(value: Any, key: str = "") -> Any:
    """The document with tuples where torch has them."""
    if isinstance(value, dict):
        return {name: _with_pairs(held, name) for name, held in value.items()}
    if isinstance(value, list):
        return tuple(value) if key in _PAIRS else [_with_pairs(held) for held in value]
    return value


EXPORTER = Exporter(
    "torch-snapshot",
    "torch's memory snapshot, of a run with --allocator-history",
    _write,
    is_text=False,
    needs="allocator_history",
)
