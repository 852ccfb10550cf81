"""The whole command on cuda, without a GPU: NVML is a stub, and in the worker meta stands in for the device.

What the figures come from is the real path (driver's library, allocator's books, events, capture, result); what they
are of is a model of torch's allocator, and a script.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoint_variants import sound
from ordered_checkpoints import write

from meminspect.capture.store import CaptureReader

if TYPE_CHECKING:
    from command_line import Home
    from stubs import StubNvml

TESTS = Path(__file__).parent.parent
GIB, MIB = 1 << 30, 1 << 20
LASTS_A_WHILE = 60_000_000  # parameters: their random numbers take longer than the pause between two looks


@pytest.fixture
def cuda(stub_nvml: StubNvml) -> dict[str, str]:
    """An environment in which there is a GPU of 80 GiB that fills up, which lists no process."""
    stub_nvml.gpu(0, name="NVIDIA Stub", total_bytes=80 * GIB, used_bytes=GIB, traffic=(35, 3 << 20, 0))
    stub_nvml.later(8, **{"0.used": 5 * GIB})
    return {**stub_nvml.environment(), "PYTHONPATH": f"{TESTS / 'on_meta'}:{TESTS.parent}"}


def test_given_a_gpu_when_loaded_to_then_all_three_figures_are_in_the_result_and_in_its_words(
    home: Home, tmp_path: Path, cuda: dict[str, str]
) -> None:
    checkpoint = sound(tmp_path / "model", "meta", parameters=LASTS_A_WHILE)
    capture = tmp_path / "run.meminspect"

    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", "naive", "--device", "cuda", "--json", "--out", capture, **cuda
    )

    assert done.status == 0, done.stderr
    run, device = done.run, done.run["device"]
    theory = run["theory"]["peak"]
    assert device["reason"] is None
    assert (run["peak"]["vram_allocated_bytes"], run["peak"]["vram_reserved_bytes"]) == (
        theory["vram_allocated_bytes"], theory["vram_reserved_bytes"],
    )  # fmt: skip
    assert run["steady"]["vram_allocated_bytes"] == run["theory"]["steady"]["vram_allocated_bytes"]
    assert device["peak_at"]["phase"] == "read"
    assert device["peak_at"]["tensor"]
    assert {line["item"]: line["bytes"] for line in device["bill"]} == {
        line["item"]: line["bytes"] for line in run["theory"]["bill"] if line["pool"] == "vram"
    } | {"reserved, not allocated": device["reserved_bytes"] - device["allocated_bytes"]}
    assert (device["busy_percent"], device["to_device_bytes_per_s"]) == (35, 3 * GIB)
    assert device["process_bytes"] is None
    assert "does not list the worker" in device["process_reason"]
    assert device["used_bytes"] in (GIB, 5 * GIB)
    with CaptureReader(capture) as reader:
        rows = reader.device_samples()
    assert {row.gpu for row in rows} == {0}
    assert {GIB, 5 * GIB} >= {row.used_bytes for row in rows}


@pytest.mark.slow
def test_given_a_device_that_is_too_small_when_loaded_to_then_running_out_of_it_is_a_result(
    home: Home, tmp_path: Path, cuda: dict[str, str]
) -> None:
    checkpoint, _ = write("meta 1", tmp_path)

    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", "naive", "--device", "cuda", "--json", "--out", tmp_path / "captures",
        **cuda, MEMINSPECT_STAND_IN_BYTES=str(MIB),
    )  # fmt: skip

    run, short = done.run, done.run["device_shortage"]
    assert (done.status, run["outcome"], run["died_at"]["phase"]) == (3, "out_of_memory", "move")
    assert run["died_at"]["tensor"]
    assert run["message"].startswith("the device is out of memory: ")
    assert short["requested_bytes"] > 0
    assert short["allocated_bytes"] + short["requested_bytes"] > MIB
    assert short["unused_bytes"] == 2 * MIB - short["allocated_bytes"]
    assert short["fragmented"] is True
    assert run["better"]["strategy"] == "mmap-assign"
    assert run["device"]["allocated_bytes"] > 0


@pytest.mark.slow
def test_given_the_allocator_s_history_when_exported_then_torch_s_own_tool_reads_it_with_tensors_names(
    home: Home, tmp_path: Path, cuda: dict[str, str]
) -> None:
    checkpoint, _ = write("meta 1", tmp_path)
    capture, snapshot = tmp_path / "run.meminspect", tmp_path / "snapshot.pickle"

    ran = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", "lazy", "--device", "cuda", "--allocator-history", "--out", capture, **cuda
    )
    exported = home.meminspect("export", capture, "--to", "torch-snapshot", "-o", snapshot)

    assert (ran.status, exported.status, exported.stderr) == (0, 0, "")
    found = pickle.loads(snapshot.read_bytes())  # noqa: S301 - our own
    names = {entry["user_metadata"] for entry in found["device_traces"][0] if entry["action"] == "alloc"}
    assert "tok_embeddings.weight" in names
    assert found["segments"][0]["segment_pool_id"] == (0, 0)
    for view in ("trace", "stats", "trace_plot"):
        out = ("-o", tmp_path / "plot.html") if view == "trace_plot" else ()
        command = [sys.executable, "-m", "torch.cuda._memory_viz", view, snapshot, *out]
        assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout or out


@pytest.mark.parametrize(
    ("kind", "why_no_driver"),
    [
        ("xpu", "what is used is asked of NVIDIA's driver, and this GPU is Intel's"),
        ("mps", "the GPU has no memory of its own: it uses the machine's"),
    ],
)
@pytest.mark.slow
def test_given_another_maker_s_gpu_when_loaded_to_then_what_its_torch_counts_is_there_and_what_nobody_tells_is_not(
    home: Home, tmp_path: Path, kind: str, why_no_driver: str
) -> None:
    checkpoint, _ = write("meta 1", tmp_path)
    environment = {"PYTHONPATH": f"{TESTS / 'on_meta'}:{TESTS.parent}", "MEMINSPECT_STAND_IN": kind}

    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", "mmap-assign", "--device", kind, "--json", "--out", tmp_path / "captures",
        **environment,
    )  # fmt: skip

    assert done.status == 0, done.stderr
    run, device, theory = done.run, done.run["device"], done.run["theory"]
    assert (run["outcome"], run["vram_reason"], run["peak"]["vram_used_bytes"]) == ("completed", why_no_driver, None)
    assert (device["reason"], device["unified"]) == (None, kind == "mps")
    assert device["context_bytes"] is None
    if kind == "xpu":
        assert run["peak"]["vram_reserved_bytes"] == theory["peak"]["vram_reserved_bytes"] > 0
        assert device["allocated_bytes"] == theory["peak"]["vram_allocated_bytes"]
        assert (device["allocated_reason"], device["reserved_reason"]) == (None, None)
        assert (device["process_bytes"], device["process_reason"]) == (None, why_no_driver)
        return
    assert device["allocated_bytes"] >= theory["peak"]["vram_allocated_bytes"] == theory["floor_bytes"]
    assert "counts no peak" in device["allocated_reason"]
    assert (device["reserved_bytes"], theory["peak"]["vram_reserved_bytes"]) == (None, None)
    assert device["reserved_reason"]
    assert (device["process_bytes"], device["process_reason"]) == (2 << 20, None)


def test_given_the_cpu_when_a_device_s_history_is_asked_for_then_it_is_refused(home: Home, tmp_path: Path) -> None:
    checkpoint, _ = write("meta 1", tmp_path)

    done = home.meminspect("run", "--ckpt", checkpoint, "-s", "naive", "--allocator-history")

    assert done.status == 2
    assert "the load is on the cpu" in done.stderr
