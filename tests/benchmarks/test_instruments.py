"""What one event, one sample and one second of writing cost, and how evenly samples come."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest

from meminspect.capture.records import Event, EventKind, Operation, Pool, Reading, Sample
from meminspect.capture.ring import RingReader, RingWriter, create_ring
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.engine.sampler import Sampler
from meminspect.sampling.procfs import ProcessMemory
from meminspect.worker.recorder import SMALL_BYTES, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

NAME = "model.layers.17.self_attn.q_proj.weight"
EVENT = Event(
    1, EventKind.END, Operation.MATERIALISE, Pool.HEAP, 17, 1 << 24, 0, 1 << 30, True, Reading(1, 2, 3, 4), NAME,
    "float16 [4096, 4096]",
)  # fmt: skip
WATCH_S = 3.0


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def test_packing_and_writing_an_event(benchmark: BenchmarkFixture, figure: Figure) -> None:
    descriptor = create_ring()
    writer, reader = RingWriter(descriptor), RingReader(descriptor)

    def write() -> None:
        for _ in range(1000):
            writer.put(EVENT)

    benchmark.pedantic(write, setup=lambda: list(reader.drain()) and None, rounds=30)
    figure("event: into the ring", _us(benchmark.stats.stats.median / 1000))
    assert writer.lost == 0
    os.close(descriptor)


def test_an_event_as_json_for_comparison(benchmark: BenchmarkFixture, figure: Figure) -> None:
    benchmark(lambda: json.dumps(EVENT))
    figure("event: as a line of JSON (not used)", _us(benchmark.stats.stats.median))


def test_draining_an_event(benchmark: BenchmarkFixture, figure: Figure) -> None:
    descriptor = create_ring()
    writer, reader = RingWriter(descriptor), RingReader(descriptor)
    drained: list[Event] = []

    def fill() -> None:
        for _ in range(1000):
            writer.put(EVENT)

    benchmark.pedantic(lambda: drained.extend(reader.drain()), setup=fill, rounds=30)
    figure("event: drain + unpack", _us(benchmark.stats.stats.median / 1000))
    assert drained[0] == EVENT
    os.close(descriptor)


def test_a_memory_reading(benchmark: BenchmarkFixture, figure: Figure) -> None:
    with ProcessMemory("self") as memory:
        benchmark(memory.reading)
    figure("a reading of /proc/self/status", _us(benchmark.stats.stats.median))


def test_a_begin_and_its_end(benchmark: BenchmarkFixture, figure: Figure) -> None:
    descriptor = create_ring()
    recorder, reader = Recorder(RingWriter(descriptor), ProcessMemory("self")), RingReader(descriptor)
    recorder.enabled = True

    def pairs() -> None:
        for _ in range(500):
            id_ = recorder.begin(Operation.MATERIALISE, Pool.HEAP, NAME, SMALL_BYTES, detail="float16 [4096, 4096]")
            recorder.end(id_, Operation.MATERIALISE, Pool.HEAP, NAME, SMALL_BYTES)

    benchmark.pedantic(pairs, setup=lambda: list(reader.drain()) and None, rounds=20)
    figure("begin + end of a tensor, mostly without a reading, caches hot", _us(benchmark.stats.stats.median / 500))
    os.close(descriptor)


def _spin(stop: object) -> None:
    while not stop.is_set():  # type: ignore[attr-defined]
        sum(range(10_000))


@pytest.mark.parametrize("busy", [0, 2], ids=["idle", "beside two busy processes"])
def test_gaps_between_samples(benchmark: BenchmarkFixture, figure: Figure, busy: int) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    spinning = [context.Process(target=_spin, args=(stop,), daemon=True) for _ in range(busy)]
    for process in spinning:
        process.start()
    sampler = Sampler(os.getpid(), lambda: None)

    def watch() -> None:
        sampler.start()
        threading.Event().wait(WATCH_S)
        sampler.stop()

    benchmark.pedantic(watch, rounds=1)
    stop.set()
    for process in spinning:
        process.join()
    times = [sample.t_ns for sample in sampler.take()]
    gaps = sorted((after - before) / 1e6 for before, after in itertools.pairwise(times))
    words = f"p50 {gaps[len(gaps) // 2]:.2f}, p99 {gaps[len(gaps) * 99 // 100]:.2f}, max {gaps[-1]:.2f} ms"
    figure(f"gaps between samples, {busy} busy processes", f"{words}; {_us(sampler.cpu_s / sampler.count)} CPU each")
    assert sampler.failure is None


def test_writing_a_second_of_a_run(benchmark: BenchmarkFixture, figure: Figure, tmp_path: Path) -> None:
    """200 samples and 5,000 events a second, committed every 30 ms; a reader asks for news 20 times a second."""
    writer = CaptureWriter(tmp_path / "run.meminspect", 0)
    clock = itertools.count(1)
    cpu_s: list[float] = []

    def second() -> None:
        started_s = time.thread_time()
        for _ in range(33):
            t_ns = next(clock)
            writer.append([Sample(t_ns, 1, 2, 3, 4, 5, 6, 7, 8)] * 6, [EVENT._replace(t_ns=t_ns)] * 152, [])
        cpu_s.append(time.thread_time() - started_s)

    benchmark.pedantic(second, rounds=5)
    figure("writer at 200 samples + 5,000 events/s", f"{100 * statistics.median(cpu_s):.1f} % of a core")
    with CaptureReader(tmp_path / "run.meminspect") as reader:
        before_s = time.thread_time()
        last = reader.events()[-1][0]
        whole_s, before_s = time.thread_time() - before_s, time.thread_time()
        for _ in range(20):
            reader.events(last - 250)
        figure(
            "reader: 20 looks at 250 new events", f"{100 * (time.thread_time() - before_s):.1f} % of a core; "
            f"all {last:,} at once {whole_s * 1e3:.0f} ms",
        )  # fmt: skip
    writer.close()
