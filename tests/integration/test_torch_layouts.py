"""Every way in which torch.save lays a checkpoint out × every strategy: events in the order of theory, and verified.

Two cells are quick, of the layouts that are least like the others; the rest of the table is slow.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from worker_runs import event_lines, ledger_lines, run_worker

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Tensors = dict[str, torch.Tensor]


def _tensors() -> Tensors:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=random)
    return {
        "embed.weight": weight,
        "turned": torch.randn(60, 50, generator=random).half().t(),
        "part": torch.randn(60, 50, generator=random)[:, 5:25],
        "ids": torch.arange(300),
        "head.weight": weight,
        "norm.bias": torch.randn(700, generator=random).bfloat16(),
    }


def _training(tensors: Tensors) -> dict[str, Any]:
    """As Lightning's, without what torch would have to be told to trust."""
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(40, 30), "exp_avg_sq": torch.ones(2000)}}
    return {
        "epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": {**tensors, "extra": "text"},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "ema": {"shadow": torch.ones(500)},
    }  # fmt: skip


def _save(value: object, path: Path, *, zipped: bool = True) -> Path:
    path.parent.mkdir()
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def _shards(folder: Path) -> Path:
    tensors = _tensors()
    tied = {"embed.weight", "head.weight"}
    groups = [{name: tensors[name] for name in tied}, {name: tensors[name] for name in tensors.keys() - tied}]
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    folder.mkdir()
    for name, group in zip(names, groups, strict=True):
        torch.save(group, folder / name)
    weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _big_endian(folder: Path) -> Path:
    tensors = {name: tensor for name, tensor in _tensors().items() if name not in ("turned", "head.weight")}
    path = _save(tensors, folder / "little.pth")
    sizes = [tensor.dtype.itemsize for tensor in tensors.values()]
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(folder / "big.pth", "w") as target:
        for name in source.namelist():
            content = b"big" if name.endswith("/byteorder") else source.read(name)
            if "/data/" in name:
                size = sizes[int(name.rpartition("/")[2])]
                content = b"".join(content[at : at + size][::-1] for at in range(0, len(content), size))
            target.writestr(name, content)
    return folder / "big.pth"


def _litgpt(folder: Path) -> Path:
    _save({"model": _tensors()}, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text("name: none-such\nn_layer: 2\n")
    return folder


def _lit_llama() -> Tensors:
    """As LitGPT's predecessor names them."""
    random = torch.Generator().manual_seed(0)
    shapes = {
        "lm_head.weight": (50, 32), "transformer.wte.weight": (50, 32), "transformer.h.0.rms_1.scale": (32,),
        "transformer.h.0.attn.c_attn.weight": (96, 32), "transformer.h.0.attn.c_proj.weight": (32, 32),
        "transformer.h.0.rms_2.scale": (32,), "transformer.h.0.mlp.c_fc1.weight": (88, 32),
        "transformer.h.0.mlp.c_fc2.weight": (88, 32), "transformer.h.0.mlp.c_proj.weight": (32, 88),
        "transformer.ln_f.scale": (32,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=random).bfloat16() for name, shape in shapes.items()}


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "plain pth": lambda folder: _save(_tensors(), folder / "weights.pth"),
    "nested pt": lambda folder: _save({"model": {"module": _tensors()}}, folder / "a.pt"),
    "lightning ckpt": lambda folder: _save(_training(_tensors()), folder / "last.ckpt"),
    "legacy bin": lambda folder: _save(_tensors(), folder / "pytorch_model.bin", zipped=False),
    "legacy training": lambda folder: _save(_training(_tensors()), folder / "a.pth.tar", zipped=False),
    "sharded bin": _shards,
    "big-endian": _big_endian,
    "litgpt": _litgpt,
    "lit-llama": lambda folder: _save(_lit_llama(), folder / "lit-llama.pth"),
    "nested lit-llama": lambda folder: _save({"model": _lit_llama(), "step": 3}, folder / "lit-llama.pth"),
}  # fmt: skip
UNMAPPABLE = {
    "legacy bin": "is in torch's format from before 1.6, which torch cannot map",
    "legacy training": "is in torch's format from before 1.6, which torch cannot map",
    "big-endian": "is big-endian: turning its bytes round copies every page that is mapped",
}
MAPPING = {"mmap-assign", "lazy"}
# None of these has a file for each tensor, and none is of an architecture whose linear layers are known.
NEVER = {"per-tensor-files", "adapters", "stream-quantize", "lazy-quantize", "quantize-after"}
AS_THEY_LIE = {("big-endian", "stream"): "big.pth is big-endian, and this reader takes the bytes as they lie"}
QUICK = {("lightning ckpt", "naive"), ("legacy bin", "sharded")}
RUN = [
    pytest.param(layout, strategy, marks=() if (layout, strategy) in QUICK else pytest.mark.slow)
    for layout in LAYOUTS
    for strategy in NATIVE
    if strategy not in NEVER
    and not (layout in UNMAPPABLE and strategy in MAPPING)
    and (layout, strategy) not in AS_THEY_LIE
]


@pytest.mark.parametrize(("layout", "strategy"), RUN)
@pytest.mark.parametrize("dtype", [None, pytest.param("float16", marks=pytest.mark.slow)])
def test_given_a_layout_then_a_strategy_loads_it_as_its_theory_says_and_all_is_verified(
    tmp_path: Path, layout: str, strategy: str, dtype: str | None
) -> None:
    path = LAYOUTS[layout](tmp_path / "checkpoint")
    tiny = tiny_checkpoint("llama", "hf", "bin", "float16", tmp_path / "tiny")

    run = run_worker(strategy, path, tiny, LoadOptions(dtype=dtype))

    assert (run.status, run.lost, run.log) == (0, 0, [])
    expected = len(run.task.pieces)
    assert (run.reports["tensors"]["verified"], run.reports["tensors"]["expected"]) == (expected, expected)
    assert run.reports["tensors"]["missing"] == 0
    assert event_lines(run) == ledger_lines(run)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_given_a_layout_that_cannot_be_mapped_then_only_mapping_is_refused_and_why(tmp_path: Path, layout: str) -> None:
    task = task_for(read_checkpoint(LAYOUTS[layout](tmp_path / "checkpoint")), LoadOptions())

    refusals = {id_: why for id_, strategy in NATIVE.items() if (why := strategy.why_not(task)) is not None}

    as_they_lie = {strategy for where, strategy in AS_THEY_LIE if where == layout}
    assert refusals.keys() == NEVER | as_they_lie | (MAPPING if layout in UNMAPPABLE else set())
    assert all(AS_THEY_LIE[layout, strategy] in refusals[strategy] for strategy in as_they_lie)
    assert all(UNMAPPABLE[layout] in refusals[strategy] for strategy in MAPPING & refusals.keys())


def test_given_what_torch_loads_only_on_trust_then_only_what_runs_no_pickle_begins(
    tmp_path: Path,
) -> None:
    torch.save({"state_dict": _tensors(), "hyper_parameters": {"path": tmp_path}}, tmp_path / "a.ckpt")
    task = task_for(read_checkpoint(tmp_path / "a.ckpt"), LoadOptions())

    for strategy in NATIVE.values():
        assert ("--trust-pickle" in (strategy.why_not(task) or "")) == strategy.unpickles
