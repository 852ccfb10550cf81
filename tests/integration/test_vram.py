"""The device's memory in a run, by a stub of NVIDIA's library: no hardware is needed, and none is claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import Home, finished, phase_of, until

from meminspect.capture.store import CaptureReader
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise, tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from stubs import StubNvml

GIB = 1 << 30


@pytest.mark.slow
def test_given_a_gpu_that_fills_up_during_the_load_then_the_timeline_shows_it(
    tmp_path: Path, stub_nvml: StubNvml
) -> None:
    architecture = architecture_for("llama", "meta", parameters=100_000_000)
    checkpoint = synthesise(SynthesisSpec(tmp_path / "llama", architecture, "meta"))
    stub_nvml.gpu(0, total_bytes=80 * GIB, used_bytes=7 * GIB)
    stub_nvml.gpu(1, total_bytes=24 * GIB, used_bytes=GIB)
    only_the_second = {**stub_nvml.environment(), "CUDA_VISIBLE_DEVICES": "1"}
    capture = tmp_path / "run.meminspect"
    home = Home(tmp_path / "home")

    command = home.start("run", "--ckpt", checkpoint, "-s", "naive", "--json", "--out", capture, **only_the_second)
    until(lambda: phase_of(capture) == "build" or command.poll() is not None)
    stub_nvml.gpu(1, total_bytes=24 * GIB, used_bytes=5 * GIB)
    done = finished(command)

    assert done.status == 0
    assert [gpu["total_bytes"] for gpu in done.document["machine"]["gpus"]] == [24 * GIB]
    with CaptureReader(capture) as reader:
        used = {sample.vram_used_bytes for sample in reader.samples()} - {None}
        assert reader.fact("vram")["reason"] == ""
    assert used == {GIB, 5 * GIB}
    assert done.run["peak"]["vram_used_bytes"] is None, "what others do with the device is no figure of a CPU load"


@pytest.mark.slow
def test_given_no_gpu_then_the_capture_says_why_there_are_no_readings(tmp_path: Path, stub_nvml: StubNvml) -> None:
    checkpoint = tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")
    capture = tmp_path / "run.meminspect"

    Home(tmp_path / "home").meminspect(
        "run", "--ckpt", checkpoint, "-s", "mmap-assign", "--out", capture, **stub_nvml.environment()
    )

    with CaptureReader(capture) as reader:
        assert reader.fact("vram") == {"reason": "no NVIDIA GPU", "gpu": None}
