"""Hugging Face's layout: model.safetensors, or its shards with their index, and config.json."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meminspect.synthesis.layouts.hugging_face import NAMINGS, plan_shards
from meminspect.synthesis.plan import Layout
from meminspect.synthesis.safetensors_file import write_safetensors

if TYPE_CHECKING:
    from meminspect.synthesis.plan import Plan, SynthesisSpec

__all__ = ["LAYOUT"]


def _plan(spec: SynthesisSpec) -> Plan:
    return plan_shards(
        spec, "model", ".safetensors", lambda _, tensors: functools.partial(write_safetensors, tensors=tensors)
    )


LAYOUT = Layout(
    id="safetensors",
    summary="model.safetensors or its shards with their index, and config.json",
    namings=NAMINGS,
    plan=_plan,
)
