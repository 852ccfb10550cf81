"""LitGPT's layout: lit_model.pth and its config.

Source: https://github.com/Lightning-AI/litgpt, litgpt/scripts/convert_hf_checkpoint.py. The config goes by its older
name, lit_config.json, which needs no writer of YAML.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meminspect.errors import UsageError
from meminspect.synthesis.plan import Layout, Plan, PlannedFile, whole
from meminspect.synthesis.torch_zip import write_state_dict

if TYPE_CHECKING:
    from meminspect.synthesis.plan import SynthesisSpec

__all__ = ["LAYOUT"]


def _plan(spec: SynthesisSpec) -> Plan:
    if spec.shards != 1:
        raise UsageError("the layout 'litgpt' has one file", "leave out --shards")
    tensors = tuple(whole(spec))
    write = functools.partial(write_state_dict, root="lit_model", tensors=tensors, ordered=False)
    return Plan((PlannedFile("lit_model.pth", tensors, write),), {"lit_config.json": spec.architecture.config})


LAYOUT = Layout(
    id="litgpt",
    summary="lit_model.pth and lit_config.json",
    namings={"litgpt": ("litgpt",)},
    plan=_plan,
)
