"""Hugging Face's older layout: pytorch_model.bin, or its shards with their index, and config.json.

Tied tensors are here under both names, sharing a storage; safetensors, which cannot share, leaves the second out.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meminspect.synthesis.layouts.hugging_face import NAMINGS, plan_shards
from meminspect.synthesis.plan import Layout
from meminspect.synthesis.torch_zip import write_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import Plan, PlannedTensor, SynthesisSpec

__all__ = ["LAYOUT"]


def _plan(spec: SynthesisSpec) -> Plan:
    aliases = [(alias.name, alias.tied_to) for alias in spec.architecture.parameters if alias.tied_to is not None]

    def writer_of(root: str, tensors: tuple[PlannedTensor, ...]) -> Callable[[Output], None]:
        here = {tensor.name for tensor in tensors}
        ties = [(alias, name) for alias, name in aliases if name in here]
        return functools.partial(write_state_dict, root=root, tensors=tensors, ordered=False, ties=ties)

    return plan_shards(spec, "pytorch_model", ".bin", writer_of, keep_ties=True)


LAYOUT = Layout(
    id="bin",
    summary="pytorch_model.bin or its shards with their index, and config.json",
    namings=NAMINGS,
    plan=_plan,
)
