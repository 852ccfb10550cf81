"""The first forward pass: what it costs to use a model for the first time, after the load and no part of it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from meminspect.worker.device import DeviceBooks
from meminspect.worker.models.skeleton import Skeleton

if TYPE_CHECKING:
    from meminspect.worker.recorder import Recorder

__all__ = ["first_forward", "warm_up"]

_TOKENS: Final = 4
_LONGEST_ERROR: Final = 300


def warm_up(model: nn.Module) -> None:
    """Call a tiny model, so that what torch does once in its life is no part of the first pass of the real one."""
    if not isinstance(model, Skeleton):
        with contextlib.suppress(Exception):  # if it cannot be called, the real one tells why
            _call(model)


def first_forward(model: nn.Module, recorder: Recorder) -> None:
    """Call a loaded model once and report what it took, or why there is nothing to report, as `forward`."""
    if isinstance(model, Skeleton):
        recorder.report("forward", {"reason": "a model of unknown architecture has no forward pass"})
        return
    recorder.phase("first forward")
    before = recorder.books()
    _, resets = recorder.reading("forward begins", reset=True)
    began_ns = time.monotonic_ns()
    try:
        _call(model)
    except Exception as error:  # noqa: BLE001 - the model is loaded all the same
        recorder.report("forward", {"error": f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]})
        return
    took_s = (time.monotonic_ns() - began_ns) / 1e9
    recorder.reading("forward ends", reset=True)
    recorder.report("forward", {"s": took_s, "resets": resets, "before": before, "after": recorder.books()})


def _call(model: nn.Module) -> None:
    # No id and no position that the smallest table, of tokens or of positions, does not have.
    sizes = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    tokens = torch.arange(min(_TOKENS, *sizes), device=device).unsqueeze(0)
    with torch.inference_mode():
        model(tokens)
    if device.type != "cpu":
        DeviceBooks(device).wait()
