"""Hooks around the real functions that loading code calls: they watch, and never do the work themselves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from meminspect.worker.hooks import (
    casting,
    dcp_files,
    mappings,
    meta_models,
    modules,
    numpy_files,
    quantising,
    safetensors_files,
    streaming,
    torch_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.worker.hooks.tracker import Tracker

__all__ = ["installed"]


@contextlib.contextmanager
def installed(tracker: Tracker) -> Iterator[None]:
    """Watch all that loads, copies, casts and quantises while the context lasts."""
    with contextlib.ExitStack() as stack:
        for hook in (
            torch_files,
            dcp_files,
            numpy_files,
            mappings,
            safetensors_files,
            streaming,
            modules,
            meta_models,
            casting,
            quantising,
        ):
            stack.enter_context(hook.watch(tracker))
        yield
