"""Quantised checkpoints are named for what they are, by names and shapes or by their config."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.worker.models import build

if TYPE_CHECKING:
    from pathlib import Path

    Tensors = dict[str, torch.Tensor]


def packed(bits: int, group: int, *, gptq: bool, inputs: int = 256, outputs: int = 64) -> Tensors:
    """A layer as AutoGPTQ or AutoAWQ packs it into 32-bit integers."""
    groups = inputs // group
    rows, columns = (inputs * bits // 32, outputs) if gptq else (inputs, outputs * bits // 32)
    tensors = {
        "q.qweight": torch.zeros(rows, columns, dtype=torch.int32),
        "q.qzeros": torch.zeros(groups, outputs * bits // 32, dtype=torch.int32),
        "q.scales": torch.ones(groups, outputs).half(),
    }
    return {**tensors, "q.g_idx": torch.zeros(inputs, dtype=torch.int32)} if gptq else tensors


BYTES = torch.zeros(64, 1, dtype=torch.uint8)
NF4: Tensors = {
    "q.weight": BYTES, "q.weight.absmax": torch.ones(2), "q.weight.quant_map": torch.ones(16),
    "q.weight.quant_state.bitsandbytes__nf4": BYTES.flatten().clone(), "norm.weight": torch.ones(4),
}  # fmt: skip
INT8: Tensors = {"q.weight": torch.ones(4, 4).to(torch.int8), "q.SCB": torch.ones(4)}
FP8: Tensors = {"q.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.ones(1, 1)}
MXFP4: Tensors = {"e.gate_blocks": BYTES, "e.gate_scales": BYTES.flatten().clone()}
PLAIN: Tensors = {"q.weight": torch.ones(4), "q.scales": torch.ones(4)}


def write(folder: Path, tensors: Tensors, config: Any = None) -> Path:
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        (packed(4, 128, gptq=True), None, "GPTQ, 4 bits, groups of 128, by its tensors"),
        (packed(8, 32, gptq=True), None, "GPTQ, 8 bits, groups of 32, by its tensors"),
        (packed(4, 64, gptq=False), None, "AWQ, 4 bits, groups of 64, by its tensors"),
        (
            packed(4, 128, gptq=True), {"quant_method": "gptq", "bits": 4, "group_size": -1},
            "GPTQ, 4 bits, one group a column, by its config",
        ),
        (
            packed(4, 128, gptq=False), {"quant_method": "gptq", "bits": 4},
            "AWQ, 4 bits, groups of 128, by its tensors; its config says GPTQ, 4 bits",
        ),
        (NF4, None, "bitsandbytes, nf4, by its tensors"),
        (NF4, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes, nf4, by its config"),
        (INT8, None, "bitsandbytes, int8, by its tensors"),
        (FP8, None, "float8, float8_e4m3fn, by its tensors"),
        (MXFP4, None, "MXFP4, by its tensors"),
        (PLAIN, {"quant_method": "new\nthing"}, "new\\nthing, by its config"),
        (PLAIN, {"quant_method": 7}, None),
        (PLAIN, "odd", None),
        (PLAIN, None, None),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_a_quantised_checkpoint_is_named(tmp_path: Path, tensors: Tensors, config: Any, words: str | None) -> None:
    assert read_checkpoint(write(tmp_path, tensors, config)).quantisation == words


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize(
    "tensors", [NF4, dict(reversed(NF4.items())), packed(4, 128, gptq=True), INT8, FP8], ids=itertools.count()
)
def test_its_tensors_make_a_model_that_takes_its_state_dict(tmp_path: Path, tensors: Tensors, *, assign: bool) -> None:
    # given names of which one may be another's beginning, in either order
    task = task_for(read_checkpoint(write(tmp_path, tensors)), LoadOptions())
    assert all(STRATEGIES[id_].why_not(task) is None for id_ in ("mmap-assign", "meta-assign", "sharded", "naive"))

    model = build(task.architecture)
    model.load_state_dict(tensors, assign=assign)

    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(model.state_dict()[name].to(t.dtype).float(), t.float()) for name, t in tensors.items())
