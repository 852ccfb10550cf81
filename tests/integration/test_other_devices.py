"""On an Intel or an Apple GPU itself: `python -m pytest -m gpu`, with a torch for it. None of this has run so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import torch
from ordered_checkpoints import write

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Home

CONSTANTS: Final = 8 * 512  # tables of nf4 and of rotary embeddings, which no ledger has
ROUNDING: Final = 1 << 20  # of Metal's, for each of some hundred small tensors
HERE: Final = {"xpu": hasattr(torch, "xpu") and torch.xpu.is_available(), "mps": torch.backends.mps.is_available()}

pytestmark = pytest.mark.gpu


@pytest.fixture(
    params=[
        pytest.param(kind, marks=pytest.mark.skipif(not here, reason=f"torch sees no {kind}"))
        for kind, here in HERE.items()
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.parametrize("checkpoint_name", ["safetensors 3", "meta 2", "per-tensor 1", "gpt2 1"])
@pytest.mark.parametrize("strategy", NATIVE)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_every_strategy_loads_what_the_checkpoint_holds(
    home: Home, tmp_path: Path, kind: str, strategy: str, checkpoint_name: str, dtype: str | None
) -> None:
    checkpoint, _ = write(checkpoint_name, tmp_path)
    task = task_for(read_checkpoint(checkpoint), LoadOptions(device=kind, dtype=dtype))
    if NATIVE[strategy].why_not(task) is not None:
        pytest.skip("refused")

    cast = ("--dtype", dtype) if dtype else ()
    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", strategy, "--device", kind, "--json", "--out", home.folder / "out", *cast
    )

    run = done.run
    tensors, peak, said = run["tensors"], run["peak"], run["theory"]["peak"]
    assert run["outcome"] == "completed", run["message"]
    assert (tensors["verified"], tensors["mismatched"]) == (tensors["expected"], 0)
    beyond = peak["vram_allocated_bytes"] - said["vram_allocated_bytes"]
    if kind == "xpu":  # the model of CUDA's allocator
        assert 0 <= beyond <= CONSTANTS
        assert peak["vram_reserved_bytes"] == said["vram_reserved_bytes"]
    else:
        assert 0 <= beyond <= ROUNDING
        assert run["device"]["process_bytes"] is not None
        assert run["device"]["unified"]
