"""Loads a checkpoint into memory of its own, at the speed of copying it out of the page cache and at the model's size.

    import torch
    from meminspect.stream import load

    model = load(lambda: Model(config), "llama-7b")

A library by itself: nothing here knows of the profiler. All reads are planned from the headers (`arrange`), into
private memory that is advised to huge pages (`memory`), by a few threads that read at positions of their own
(`reading`); then the model is given its tensors (`models`). Linear layers that are `quantised` have their weights
quantised in those threads (`quantising`). Whoever maps a checkpoint instead can have it read `ahead`.
"""

from __future__ import annotations

from meminspect.errors import StreamError
from meminspect.stream.ahead import read_ahead
from meminspect.stream.load import load
from meminspect.stream.quantised import QuantisedLinear, quantise_linears

__all__ = ["QuantisedLinear", "StreamError", "load", "quantise_linears", "read_ahead"]
