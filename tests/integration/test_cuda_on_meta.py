"""Every native strategy on a GPU, with the meta device in its place: cuda's own recipes, run without the hardware.

What is compared is the order of all that happens, where tensors are in the end and as what, and what torch's allocator,
by its model, would have counted. Values are not: meta has none, so nothing is verified here, and no kernel of CUDA and
no copy to a device is run. `--device meta` is no value of the command's: it is refused like any other device that there
is not.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from command_line import Home
from ordered_checkpoints import write
from worker_runs import WorkerRun, event_lines, finished_bytes, ledger_lines

from meminspect.capture.batches import expanded
from meminspect.checkpoint import read_checkpoint
from meminspect.devices import kind_of
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.quantisation import quantised, scale_name
from meminspect.strategies.task import task_for
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.strategies import LoadTask

SCRIPT = Path(__file__).parent.parent / "on_meta" / "run_cells.py"
CHECKPOINTS = ("safetensors 3", "meta 2", "per-tensor 1", "odd pth", "odd safetensors", "gpt2 1", "meta 1")
PLAIN, CAST = LoadOptions(device="cuda"), LoadOptions(device="cuda:0", dtype="bfloat16")
XPU, MPS = LoadOptions(device="xpu:1", dtype="bfloat16"), LoadOptions(device="mps")
ELSEWHERE = ("safetensors 3", "meta 2")  # of the checkpoints: the recipes are cuda's but for the device's name
HOST, NF4 = LoadOptions(device="cuda", read_to="host"), LoadOptions(device="cuda", quantisation="nf4")
BLOCK = 512  # of torch's allocator: what each of nf4's two tables takes
READING_ALL = ("naive", "naive-cast", "direct-device", "skip-init", "quantize-after")  # those that --read-to matters to
TAKING_OVER = ("stream", "mmap-assign", "lazy", "meta-assign", "adapters", "lazy-quantize")  # what was stored


class Cell(NamedTuple):
    strategy: str
    checkpoint: str
    options: LoadOptions

    def __str__(self) -> str:
        dtype, read_to, quantisation = self.options.dtype, self.options.read_to, self.options.quantisation
        kind = kind_of(self.options.device)
        return f"{self.strategy} on {self.checkpoint} as {dtype}, read to {read_to}, {quantisation}, {kind}"


def matters(cell: Cell) -> bool:
    if cell.options is HOST:
        return cell.strategy in READING_ALL
    if cell.options in (XPU, MPS):
        return cell.checkpoint in ELSEWHERE
    return cell.options is not NF4 or NATIVE[cell.strategy].quantises


CELLS = [
    cell
    for id_ in NATIVE
    for checkpoint in CHECKPOINTS
    for options in (PLAIN, CAST, HOST, NF4, XPU, MPS)
    if matters(cell := Cell(id_, checkpoint, options))
]
FIRST = {("safetensors 3", PLAIN), ("meta 2", CAST), ("gpt2 1", NF4)}


def comes_first(cell: Cell) -> bool:
    """Whether a cell is tried each time, and not only with the slow ones."""
    if cell in (Cell("naive-cast", "safetensors 3", XPU), Cell("stream", "meta 2", MPS)):
        return True
    return cell[1:] in FIRST or (cell.strategy == "per-tensor-files" and cell.checkpoint == "per-tensor 1")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[Cell, WorkerRun | str | None]:
    """The runs of all selected cells, made in one process a kind of device; None for one that is refused."""
    folder = tmp_path_factory.mktemp("on-meta")
    asked = [
        cell
        for item in request.session.items
        if hasattr(item, "callspec") and isinstance(cell := item.callspec.params.get("cell"), Cell)
    ]
    cells = list(dict.fromkeys(asked))
    written = {name: write(name, folder) for name in {cell.checkpoint for cell in cells}}
    tasks = {cell: task_for(read_checkpoint(written[cell.checkpoint][0]), cell.options) for cell in cells}
    found: dict[Cell, WorkerRun | str | None] = dict.fromkeys(cells)
    for kind in dict.fromkeys(kind_of(cell.options.device) for cell in cells):
        able = [
            cell
            for cell in cells
            if kind_of(cell.options.device) == kind and NATIVE[cell.strategy].why_not(tasks[cell]) is None
        ]
        (folder / "cells").write_bytes(
            pickle.dumps([(cell.strategy, *written[cell.checkpoint], cell.options) for cell in able])
        )
        subprocess.run(
            [sys.executable, SCRIPT, folder / "cells", folder / "results"], check=True, timeout=280,
            env={**os.environ, "MEMINSPECT_STAND_IN": kind},
        )  # fmt: skip
        results = pickle.loads((folder / "results").read_bytes())  # noqa: S301 - our own
        for cell, (events, failure) in zip(able, results, strict=True):
            every = [event for record in events for event in expanded(record)]
            found[cell] = failure or WorkerRun(cell.strategy, tasks[cell], 0, every, 0, [])
    return found


@pytest.fixture(
    params=[pytest.param(cell, marks=[] if comes_first(cell) else pytest.mark.slow) for cell in CELLS], ids=str
)
def cell(request: pytest.FixtureRequest) -> Cell:
    chosen: Cell = request.param
    return chosen


@pytest.fixture
def run(cell: Cell, runs: dict[Cell, WorkerRun | str | None]) -> WorkerRun:
    """A cell's run; what is refused is another test's."""
    found = runs[cell]
    if found is None:
        pytest.skip("refused")
    assert not isinstance(found, str), found
    return found


def test_what_cuda_recipe_does_comes_in_the_order_of_its_ledger(run: WorkerRun) -> None:
    assert event_lines(run) == ledger_lines(run)
    assert finished_bytes(run.loading) == NATIVE[run.strategy].theory(run.task).work_bytes


def test_every_tensor_is_on_the_device_in_the_dtype_that_it_shall_have(run: WorkerRun) -> None:
    placed = run.reports["tensors"]["placed"]

    assert {name: device for name, (device, _, _) in placed.items() if device != kind_of(run.task.options.device)} == {}
    assert {name: dtype for name, (_, dtype, _) in placed.items()} == dtypes(run.strategy, run.task)


def test_the_allocator_counts_what_theory_says(run: WorkerRun) -> None:
    if run.task.options == MPS:
        pytest.skip("of Metal's allocator there is no theory")
    ledger = NATIVE[run.strategy].ledger(run.task)
    theory = evaluate((step for step in ledger if step.item != Item.WITHIN_COPY), 0)  # of which meta makes nothing
    constants = 2 * BLOCK if "CODES = " in NATIVE[run.strategy].recipe(run.task) else 0

    peak, allocated, reserved = run.reports["tensors"]["bytes"]

    assert (allocated, reserved) == (
        (theory.steady.vram_allocated_bytes or 0) + constants,
        theory.steady.vram_reserved_bytes,
    )
    assert 0 <= peak - constants - (theory.peak.vram_allocated_bytes or 0) <= 2 * BLOCK  # while a rotary table is made


@pytest.mark.parametrize("strategy", NATIVE)
def test_every_strategy_is_run_in_some_cell_by_default(strategy: str) -> None:
    assert [cell for cell in CELLS if cell.strategy == strategy and comes_first(cell)]


def test_meta_is_no_device_to_load_to(tmp_path: Path) -> None:
    checkpoint, _ = write("meta 1", tmp_path)

    done = Home(tmp_path / "home").meminspect("plan", "--ckpt", checkpoint, "--device", "meta", "--json")

    assert {row["why_not"] for row in done.document["strategies"]} == {
        "there is no device 'meta' to load to: use cpu, cuda, xpu or mps"
    }


def dtypes(id_: str, task: LoadTask) -> dict[str, str]:
    """The dtype of each tensor of the loaded model by its first name."""
    strategy = NATIVE[id_]
    wanted: Callable[..., str] = (
        task.target_dtype
        if id_ in TAKING_OVER
        else task.built_in(task.main_dtype if strategy.casts else strategy.built_dtype(task)).initial_dtype
    )
    base = {one.name: wanted(one) for one in task.architecture.parameters if one.tied_to is None}
    found = base | {one.name: one.dtype or "float32" for one in strategy.adds(task)}
    if strategy.quantises:
        for name in quantised(task):
            found |= {name: "int8" if task.options.quantisation == "int8" else "uint8", scale_name(name): "float32"}
    return found
