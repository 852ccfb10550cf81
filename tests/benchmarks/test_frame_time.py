"""What one frame of the live picture costs after a long run, alone and through Textual."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from typing import TYPE_CHECKING

import pytest
from textual.app import App, ComposeResult
from textual.strip import Strip
from textual.widget import Widget

from meminspect.analysis.reduction import Series, Timeline
from meminspect.renderables.timeline import Picture, axis_for, draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

SAMPLES, GAP_NS = 1_000_000, 5_000_000  # more than an hour of the sampler
SPAN_NS = SAMPLES * GAP_NS
WIDTH, HEIGHT = 200, 60
GIB = 1 << 30
FRAMES = 30


def _reading(number: int) -> tuple[int, int, int, int, int]:
    """A model that grows, shards that come and go, some mapped pages, and a device that fills."""
    grown = number / SAMPLES
    heap = 12 * grown + 2 * abs(math.sin(40 * grown))
    return number * GAP_NS, int(heap * GIB), int(3 * (number % 7) / 7 * GIB), GIB // 4, int(60 * grown * GIB)


def _picture(series: Series) -> Picture:
    phases = tuple((SPAN_NS * begin // 10, name) for begin, name in ((0, "build"), (2, "read"), (7, "copy")))
    return Picture(
        series, SPAN_NS, axis_for([18 * GIB], 22 * GIB), 15 * GIB, 22 * GIB, phases, peak_ns=SPAN_NS,
        vram_total_bytes=80 * GIB,
    )  # fmt: skip


@pytest.fixture(scope="module")
def timeline(figure: Figure) -> Timeline:
    filled = Timeline()
    readings = [_reading(number) for number in range(SAMPLES)]
    began_s = time.perf_counter()
    for reading in readings:
        filled.add(*reading)
    figure("timeline: add a reading", f"{(time.perf_counter() - began_s) / SAMPLES * 1e6:.2f} µs")
    return filled


@pytest.mark.timeout(600)
def test_a_frame(benchmark: BenchmarkFixture, figure: Figure, timeline: Timeline) -> None:
    lines = benchmark(lambda: draw(_picture(timeline.frozen()), WIDTH, HEIGHT))

    median_s = benchmark.stats.stats.median
    figure(f"frame of {WIDTH}×{HEIGHT} from {SAMPLES:,} readings: freeze + draw", f"{median_s * 1e3:.2f} ms")
    assert len(lines) == HEIGHT


def test_the_parts_of_a_frame(benchmark: BenchmarkFixture, figure: Figure, timeline: Timeline) -> None:
    series = benchmark(timeline.frozen)
    began_s = time.perf_counter()
    for _ in range(FRAMES):
        series.columns(WIDTH, SPAN_NS)
    columns_s = (time.perf_counter() - began_s) / FRAMES
    frozen_s = benchmark.stats.stats.median
    figure("of it: freeze, and columns", f"{frozen_s * 1e3:.3f} and {columns_s * 1e3:.2f} ms")


class _Chart(Widget):
    """Draws anew for every refresh."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.timeline, self.drawn, self.strips = timeline, 0, list[Strip]()

    def render_line(self, y: int) -> Strip:
        if y == 0:
            lines = draw(_picture(self.timeline.frozen()), self.size.width, self.size.height)
            self.strips = [Strip(line, self.size.width) for line in lines]
            self.drawn += 1
        return self.strips[y]


class _ChartApp(App[None]):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.chart = _Chart(timeline)

    def compose(self) -> ComposeResult:
        yield self.chart


async def _refreshes(timeline: Timeline) -> list[float]:
    """CPU seconds of each refresh, until Textual has composed it; waiting for its next frame is not in them."""
    app, seconds = _ChartApp(timeline), list[float]()
    async with app.run_test(size=(WIDTH, HEIGHT)) as pilot:
        await pilot.pause()
        drawn_before = app.chart.drawn
        for _ in range(FRAMES):
            composed = asyncio.Event()
            began_s = time.thread_time()
            app.chart.refresh()
            app.chart.call_after_refresh(composed.set)
            await composed.wait()
            seconds.append(time.thread_time() - began_s)
        assert app.chart.drawn - drawn_before >= FRAMES - 1
    return seconds


def test_a_refresh_through_textual(benchmark: BenchmarkFixture, figure: Figure, timeline: Timeline) -> None:
    seconds = benchmark.pedantic(lambda: asyncio.run(_refreshes(timeline)), rounds=1)

    figure(
        f"refresh of {WIDTH}×{HEIGHT} through Textual",
        f"median {statistics.median(seconds) * 1e3:.1f}, slowest {max(seconds) * 1e3:.1f} ms of CPU",
    )
