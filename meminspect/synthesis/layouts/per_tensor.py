"""A checkpoint exploded into one file a tensor, each what torch.save makes of the tensor alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meminspect.errors import UsageError
from meminspect.synthesis.plan import Layout, Plan, PlannedFile, whole
from meminspect.synthesis.torch_zip import write_tensor

if TYPE_CHECKING:
    from meminspect.synthesis.plan import SynthesisSpec

__all__ = ["LAYOUT"]


def _plan(spec: SynthesisSpec) -> Plan:
    if spec.shards != 1:
        raise UsageError("the layout 'per-tensor' has one file a tensor, and no shards", "leave out --shards")
    files = tuple(
        PlannedFile(f"{tensor.name}.pt", (tensor,), functools.partial(write_tensor, root=tensor.name, tensor=tensor))
        for tensor in whole(spec)
    )
    config = "params.json" if spec.architecture.naming == "meta" else "config.json"
    return Plan(files, {config: spec.architecture.config})


LAYOUT = Layout(
    id="per-tensor",
    summary="NAME.pt for every tensor, and params.json or config.json",
    namings={"llama": ("meta",), "gpt2": ("teaching",)},
    plan=_plan,
)
