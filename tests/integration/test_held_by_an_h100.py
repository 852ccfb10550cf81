"""What one NVIDIA H100 held (torch 2.11 for CUDA 13.0), against what is planned of the same checkpoint's headers.

One run each of `meminspect run --device cuda` over `meminspect synth OUT --params 1.3B --shards 3` (fabric's
strategies: `--layout bin`), with the newest libraries of 2026-11. No device is needed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise

if TYPE_CHECKING:
    from pathlib import Path

MIB: Final = 1 << 20
PAGES: Final = 16  # MiB of the host that libraries of CUDA, threads and the allocator take for themselves
THREADS: Final = 8  # that stream, on a machine of as many cores or more
FABRIC: Final = ("fabric-init-module", "fabric-random-init")


class Held(NamedTuple):
    """A run's peaks and, last, what stayed allocated, in MiB."""

    strategy: str
    allocated: float
    reserved: float
    heap: float
    file: float
    pinned: float
    stays: float
    dtype: str | None = None
    quantisation: str = "int8"


HELD: Final = (
    Held("stream", 2604.2, 2798, 2.1, 16.6, 128, 2604.2),
    Held("stream", 2604.2, 2798, 81.9, 22.3, 128, 2604.2, "bfloat16"),
    Held("mmap-assign", 2604.2, 2798, 1.1, 882.8, 0, 2604.2),
    Held("mmap-assign", 2608.7, 2840, 1.1, 882.8, 0, 2600.7, "bfloat16"),
    Held("init-module", 2604.2, 2798, 1.3, 2566.2, 0, 2604.2),
    Held("skip-init", 5208.4, 5594, 1.7, 875.6, 168, 2604.2),
    Held("sharded", 5204.4, 5206, 5133.2, 875.6, 0, 5204.4),
    Held("naive-cast", 7808.6, 8002, 5133.2, 875.6, 168, 2604.2),
    Held("naive", 7808.6, 8002, 5133.2, 875.6, 168, 5204.4),
    Held("adapters", 2616.2, 2810, 1.8, 875.6, 0, 2616.2),
    Held("stream-quantize", 1412.1, 1516, 2.9, 70.2, 128, 1412.1),
    Held("stream-quantize", 903.6, 970, 11.7, 99.3, 128, 903.6, None, "nf4"),
    Held("lazy-quantize", 1422.1, 1572, 126.2, 0, 0, 1412.1),
    Held("quantize-after", 7808.6, 8004, 5133.2, 875.6, 168, 1660.3),
    Held("hf-pretrained", 2604.2, 2798, 2.1, 883, 0, 2604.2),
    Held("hf-pretrained", 2604.2, 2798, 2571, 2566.3, 0, 2604.2, "bfloat16"),
    Held("hf-device-map", 2566.2, 2570, 1.8, 2566.2, 0, 2566.2),
    Held("hf-device-map", 2566.2, 2570, 275.7, 2566.2, 0, 2566.2, "bfloat16"),
    Held("accelerate-dispatch", 2604.2, 2798, 1.3, 875.8, 168, 2604.2),
    Held("accelerate-dispatch", 3457.8, 3706, 1.5, 875.8, 168, 2601.7, "bfloat16"),
    Held("hf-naive", 5208.4, 5594, 2567.2, 875.8, 168, 2604.2),
    Held("bnb-int8", 1437.6, 1518, 30.8, 2566.2, 0, 1410.1),
    Held("bnb-nf4", 933.5, 950, 2, 2566.2, 0, 921.3),
    Held("torchao-int8", 1494.8, 1590, 2.2, 2566.2, 0, 1412.1),
    Held("fabric-init-module", 2604.2, 2798, 2621.5, 2.1, 0, 2604.2),
    Held("fabric-random-init", 2604.2, 2798, 2586.1, 2.1, 0, 2604.2),
    Held("fastsafetensors", 2568, 2568, 0.7, 16.2, 16.2, 2568),
    Held("fastsafetensors", 3456.1, 3522, 0.9, 16.2, 16.2, 2578.7, "bfloat16"),
    Held("runai-streamer", 2604.2, 2798, 2573.8, 0, 0, 2604.2),
    Held("runai-streamer", 2608.2, 2868, 2573.8, 0, 0, 2600.2, "bfloat16"),
)
BUFFERED: Final = ("stream", "stream-quantize")  # page-locked buffers are counted as a file's pages until all are made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint by its layout, as holes: only its headers are looked at."""
    folder = tmp_path_factory.mktemp("held")
    for layout, shards in (("safetensors", 3), ("bin", 1)):
        architecture = architecture_for("llama", layout, parameters=1_300_000_000)
        synthesise(SynthesisSpec(folder / layout, architecture, layout, "float16", shards, sparse=True))
    return {layout: folder / layout for layout in ("safetensors", "bin")}


@pytest.mark.parametrize("held", HELD, ids=lambda held: "-".join(filter(None, (held.strategy, *held[7:]))))
def test_what_is_planned_is_what_it_held(folders: dict[str, Path], held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meminspect.strategies.streaming.default_threads", lambda: THREADS)
    folder = folders["bin" if held.strategy in FABRIC else "safetensors"]
    options = LoadOptions(device="cuda", dtype=held.dtype, quantisation=held.quantisation)
    theory = STRATEGIES[held.strategy].theory(task_for(read_checkpoint(folder), options))

    peak = theory.peak
    planned = [
        None if nbytes is None else nbytes / MIB
        for nbytes in (peak.vram_allocated_bytes, peak.vram_reserved_bytes, theory.steady.vram_allocated_bytes)
    ]
    assert planned == [
        pytest.approx(held.allocated, rel=0.002),
        pytest.approx(held.reserved, rel=0.03 if held.strategy == "torchao-int8" else 0.01),
        pytest.approx(held.stays, rel=0.002),
    ]
    assert peak.pinned_bytes / MIB == pytest.approx(held.pinned, abs=0.5)
    assert peak.heap_bytes / MIB == pytest.approx(held.heap, rel=0.025, abs=PAGES + 2)
    if held.strategy not in BUFFERED:
        assert peak.file_bytes / MIB == pytest.approx(held.file, rel=0.01, abs=PAGES + 1)
