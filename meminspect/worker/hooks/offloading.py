"""Watches weights go to a temporary folder and come back: files that accelerate writes through mappings of its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meminspect.capture.records import Operation, Pool
from meminspect.worker.hooks.tracker import describe, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["watch"]

_WRITERS = ("accelerate.utils.modeling", "transformers.core_model_loading")


@contextlib.contextmanager
def watch(tracker: Tracker) -> Iterator[None]:
    """Watch until the context ends; what is not imported is not watched."""
    recorder = tracker.recorder

    def watched_write(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(weight: torch.Tensor, weight_name: str, *args: Any, **kwargs: Any) -> Any:
            recorder.phase("offload")
            detail = describe(str(weight.dtype), tuple(weight.shape))
            id_ = recorder.begin(Operation.COPY, Pool.NONE, weight_name, weight.nbytes, detail=detail)
            result = write(weight, weight_name, *args, **kwargs)
            recorder.end(id_, Operation.COPY, Pool.NONE, weight_name, weight.nbytes)
            return result

        return call

    def watched_read(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(weight_file: str, weight_info: Any) -> torch.Tensor:
            recorder.phase("read")
            weight = read(weight_file, weight_info)
            storage, detail = weight.untyped_storage(), describe(str(weight.dtype), tuple(weight.shape))
            if tracker.attribution is not None:
                tracker.attribution.found(storage.data_ptr())
            tracker.has_made(Path(weight_file).name.removesuffix(".dat"), storage, detail)
            return weight

        return call

    with contextlib.ExitStack() as stack:
        for module in filter(None, map(sys.modules.get, _WRITERS)):
            stack.enter_context(replaced(module, "offload_weight", watched_write))
            stack.enter_context(replaced(module, "load_offloaded_weight", watched_read))
        yield
