"""Theory's timeline against the measured one: the order of the worker's events is the order of the ledger's steps.

Every pair of layout and strategy, of strategy and option, and of layout and option that makes a difference
stands in one of the cells.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest
from ordered_checkpoints import write
from worker_runs import WorkerRun, event_lines, finished_bytes, ledger_lines, run_worker

from meminspect.capture.records import EventKind
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.quantisation import quantised

if TYPE_CHECKING:
    from collections.abc import Callable


class Cell(NamedTuple):
    checkpoint: str
    strategy: str
    options: LoadOptions

    def __str__(self) -> str:
        options = self.options
        return (
            f"{self.strategy} on {self.checkpoint} as {options.dtype}, built as {options.init_dtype}, "
            f"quantised to {options.quantisation}, read ahead by {options.read_ahead}"
        )


PLAIN, CAST, NARROW = LoadOptions(), LoadOptions(dtype="bfloat16"), LoadOptions(init_dtype="float16")
NF4 = LoadOptions(quantisation="nf4")
AHEAD = LoadOptions(read_ahead="populate")
CELLS = [
    Cell("meta 1", "meta-assign", CAST),
    Cell("meta 2", "naive", NARROW),
    Cell("odd pth", "lazy", CAST),
    Cell("odd pth", "stream", PLAIN),
    Cell("odd pth", "mmap-assign", AHEAD),
    Cell("safetensors 3", "lazy-quantize", CAST),
    Cell("safetensors 3", "stream-quantize", CAST),
]
MORE_CELLS = [
    Cell("gpt2 1", "adapters", CAST),
    Cell("meta 2", "stream", CAST),
    Cell("safetensors 3", "mmap-assign", CAST),
    Cell("safetensors 3", "mmap-assign", AHEAD),
    Cell("safetensors 3", "mmap-assign", replace(AHEAD, dtype="bfloat16")),
    Cell("meta 2", "mmap-assign", CAST),
    Cell("meta 2", "sharded", PLAIN),
    Cell("safetensors 1", "naive", PLAIN),
    Cell("odd pth", "meta-assign", CAST),
    Cell("odd safetensors", "mmap-assign", PLAIN),
    Cell("meta 1", "sharded", PLAIN),
    Cell("safetensors 3", "sharded", NARROW),
    Cell("meta 1", "naive-cast", PLAIN),
    Cell("safetensors 3", "skip-init", CAST),
    Cell("meta 2", "quantize-after", NF4),
    Cell("meta 2", "lazy", CAST),
    Cell("meta 2", "lazy", PLAIN),
    Cell("safetensors 3", "lazy", PLAIN),
    Cell("odd safetensors", "lazy", CAST),
    Cell("odd pth", "naive-cast", CAST),
    Cell("odd pth", "skip-init", PLAIN),
    Cell("meta 2", "skip-init", PLAIN),
    Cell("meta 1", "init-module", CAST),
    Cell("odd safetensors", "init-module", PLAIN),
    Cell("meta 2", "sequential", PLAIN),
    Cell("safetensors 3", "direct-device", NARROW),
    Cell("per-tensor 1", "per-tensor-files", PLAIN),
    Cell("per-tensor 1", "per-tensor-files", CAST),
    Cell("per-tensor 1", "lazy", CAST),
    Cell("meta 1", "lazy-quantize", PLAIN),
    Cell("meta 2", "lazy-quantize", NF4),
    Cell("gpt2 1", "lazy-quantize", NF4),
    Cell("gpt2 1", "quantize-after", NARROW),
    Cell("meta 2", "adapters", PLAIN),
    Cell("meta 2", "stream", PLAIN),
    Cell("safetensors 3", "stream", CAST),
    Cell("odd safetensors", "stream", PLAIN),
    Cell("odd pth", "stream", CAST),
    Cell("meta 1", "stream-quantize", NF4),
    Cell("per-tensor 1", "stream", PLAIN),
    Cell("per-tensor 1", "stream", CAST),
]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[Cell], WorkerRun]:
    """The run of a cell; all that are selected are started, two at a time, when the first is asked for."""
    folder = tmp_path_factory.mktemp("event-order")
    asked = [item.callspec.params.get("run") for item in request.session.items if hasattr(item, "callspec")]
    cells = dict.fromkeys(cell for cell in asked if isinstance(cell, Cell))
    written = {name: write(name, folder) for name in {cell.checkpoint for cell in cells}}
    runs: dict[Cell, Future[WorkerRun]] = {}
    with ThreadPoolExecutor(2) as executor:
        for cell in cells:
            runs[cell] = executor.submit(run_worker, cell.strategy, *written[cell.checkpoint], cell.options)
    return lambda cell: runs[cell].result()


@pytest.fixture(params=[*CELLS, *(pytest.param(cell, marks=pytest.mark.slow) for cell in MORE_CELLS)], ids=str)
def run(request: pytest.FixtureRequest, run_of: Callable[[Cell], WorkerRun]) -> WorkerRun:
    return run_of(request.param)


def test_the_worker_ends_well_and_every_tensor_is_the_checkpoints(run: WorkerRun) -> None:
    assert (run.status, run.lost, run.log) == (0, 0, [])
    assert "finished" in run.reports
    expected = len(run.task.pieces)
    assert run.reports["tensors"] == {
        "expected": expected, "verified": expected, "mismatched": 0, "missing": 0, "unexpected": 0,
        "names": {"mismatched": [], "missing": [], "unexpected": []},
    }  # fmt: skip


def test_events_come_in_the_order_of_the_ledgers_steps(run: WorkerRun) -> None:
    assert event_lines(run) == ledger_lines(run)


def test_what_has_ended_adds_up_to_the_work_that_theory_foresees(run: WorkerRun) -> None:
    theory = STRATEGIES[run.strategy].theory(run.task)
    assert finished_bytes(run.loading) == theory.work_bytes


def test_every_begin_has_its_end_and_time_never_runs_backwards(run: WorkerRun) -> None:
    begun = [event.id for event in run.loading if event.kind is EventKind.BEGIN]
    ended = [event.id for event in run.loading if event.kind is EventKind.END]
    if run.strategy.startswith("stream") or run.task.options.read_ahead:  # threads begin in order, and end as they can
        ended.sort()
    assert begun == ended
    assert len(set(begun)) == len(begun)
    assert all(one.t_ns <= other.t_ns for one, other in itertools.pairwise(run.events))


def test_phases_come_once_each_in_the_recipes_order_or_by_turns_where_shards_do(run: WorkerRun) -> None:
    phases = [event.name for event in run.loading if event.kind is EventKind.PHASE]
    assert phases[-2:] == ["finalise", "touch"]
    assert phases[0] == "build"
    if run.task.options.read_ahead and not run.task.casts:
        phases.remove("touch")  # the recipe's own
    if run.strategy in ("sharded", "per-tensor-files"):
        assert phases[1:-2] == ["read", "copy"] * len(run.task.checkpoint.files)
    elif STRATEGIES[run.strategy].quantises and run.strategy != "stream-quantize":  # which does it while it reads
        assert phases[1:-2].count("quantise") == len(quantised(run.task))
    elif run.strategy in ("lazy", "adapters"):  # by turns, as tensors are cast or not
        assert phases[1:-2].count("read") == len(run.task.checkpoint.files) or run.task.checkpoint.parallel_files
    else:
        assert len(set(phases)) == len(phases)
