"""On a CUDA device itself: `python -m pytest -m gpu`, with a build of torch for it, and nothing else on the device."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ordered_checkpoints import write

from meminspect.capture.store import CaptureReader
from meminspect.checkpoint import read_checkpoint
from meminspect.staging import default_threads
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise

if TYPE_CHECKING:
    from command_line import Home

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

GIB, MIB = 1 << 30, 1 << 20
CHECKPOINTS = ("safetensors 3", "meta 2", "per-tensor 1", "gpt2 1")
CONSTANTS = 8 * 512  # tables of nf4 and of rotary embeddings, which no ledger has


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a gigabyte: above the kernel's, the driver's and the allocator's resolution."""
    architecture = architecture_for("llama", "meta", parameters=250_000_000)
    return synthesise(SynthesisSpec(tmp_path_factory.mktemp("large") / "llama", architecture, "meta"))


def ran(home: Home, checkpoint: Path, strategy: str, *more: object) -> dict[str, Any]:
    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", strategy, "--device", "cuda", "--json", "--out", home.folder / "out", *more
    )
    assert done.status in (0, 3), done.stderr
    return done.run


@pytest.mark.parametrize("checkpoint_name", CHECKPOINTS)
@pytest.mark.parametrize("strategy", NATIVE)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_every_strategy_loads_what_the_checkpoint_holds_with_the_peak_that_theory_says(
    home: Home, tmp_path: Path, strategy: str, checkpoint_name: str, dtype: str | None
) -> None:
    checkpoint, _ = write(checkpoint_name, tmp_path)
    task = task_for(read_checkpoint(checkpoint), LoadOptions(device="cuda", dtype=dtype))
    if NATIVE[strategy].why_not(task) is not None:
        pytest.skip("refused")

    run = ran(home, checkpoint, strategy, *(("--dtype", dtype) if dtype else ()))

    tensors, theory = run["tensors"], run["theory"]
    assert run["outcome"] == "completed", run["message"]
    assert (tensors["verified"], tensors["mismatched"]) == (tensors["expected"], 0)
    # What scatters a slice of columns has a copy of it on the device, in each thread. Theory has none of these.
    scatters = strategy == "stream" and task.checkpoint.parallel_files
    scattered = default_threads() * max(tensor.nbytes for tensor in task.checkpoint.tensors) if scatters else 0
    for figures, said, more in ((run["peak"], theory["peak"], scattered), (run["steady"], theory["steady"], 0)):
        assert 0 <= figures["vram_allocated_bytes"] - said["vram_allocated_bytes"] <= CONSTANTS + more
    assert run["peak"]["vram_reserved_bytes"] == theory["peak"]["vram_reserved_bytes"]


@pytest.mark.parametrize("strategy", ["naive", "meta-assign", "stream", "lazy", "sequential"])
def test_the_three_figures_contain_each_other_and_the_bill_adds_up(home: Home, large: Path, strategy: str) -> None:
    run = ran(home, large, strategy)

    device = run["device"]
    assert device["allocated_bytes"] <= device["reserved_bytes"]
    assert device["peak_at"]["phase"] is not None
    if device["process_bytes"] is not None:  # no container
        assert 50 * MIB < device["context_bytes"] < 2 * GIB
        assert device["reserved_bytes"] <= device["process_bytes"]
    bill = {line["item"]: line["bytes"] for line in device["bill"]}
    listed = sum(nbytes for item, nbytes in bill.items() if item not in ("reserved, not allocated", "device context"))
    assert listed == device["allocated_bytes"]
    with CaptureReader(Path(run["capture"])) as reader:
        assert any(event.device for _, event in reader.events())
        assert any(sample.used_bytes for sample in reader.device_samples())


def test_streams_staging_is_what_its_theory_says_on_the_host(home: Home, large: Path) -> None:
    run = ran(home, large, "stream")

    held = run["peak"]["heap_bytes"] + run["peak"]["pinned_bytes"]
    theory = run["theory"]["peak"]["heap_bytes"] + run["theory"]["peak"]["pinned_bytes"]
    assert abs(held - theory) < 32 * MIB


def test_a_device_that_others_have_filled_is_out_of_memory_with_the_tensor_s_name(home: Home, large: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    filled = torch.empty(max(0, free - GIB), dtype=torch.uint8, device="cuda")

    run = ran(home, large, "naive", "--force")
    del filled
    torch.cuda.empty_cache()

    short = run["device_shortage"]
    assert (run["outcome"], run["died_at"]["tensor"] is not None) == ("out_of_memory", True)
    assert short["requested_bytes"] > short["free_bytes"]
    assert short["fragmented"] in (True, False)


def test_the_allocator_s_history_has_the_tensors_names(home: Home, large: Path, tmp_path: Path) -> None:
    run = ran(home, large, "lazy", "--allocator-history")

    snapshot = tmp_path / "snapshot.pickle"
    home.meminspect("export", run["capture"], "--to", "torch-snapshot", "-o", snapshot)

    found = pickle.loads(snapshot.read_bytes())  # noqa: S301 - our own
    names = {entry.get("user_metadata") for entry in found["device_traces"][0]}
    assert "tok_embeddings.weight" in names


def test_the_first_forward_pass_is_on_the_device(home: Home, large: Path) -> None:
    run = ran(home, large, "meta-assign", "--forward")

    assert run["forward"]["s"] > 0, run["forward_reason"]
