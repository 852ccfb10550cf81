"""Theory beside measurement on real loads: every pool's peak, the total, and the bill that adds up to it.

The comparison is one function, `discrepancies`, and the last tests show that it finds a theory with a wrong term.
"""

from __future__ import annotations

import copy
import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from checkpoint_variants import sound
from command_line import Home
from discrepancies import Run, discrepancies
from safetensors.torch import save_file
from test_matrix import RUNS, expected

from meminspect.analysis.describe import theory_document
from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = 75_000_000
PARAMETERS = int(os.environ.get("MEMINSPECT_TEST_PARAMETERS", SMALL))  # 1_300_000_000 for checkpoints of 2.7 GB


def _skeleton(out: Path) -> Path:
    """Tensors of no known model, of several dtypes."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}": torch.rand(1000, 4000, generator=random).to(dtype)
        for block in range(12)
        for name, dtype in (("mix", torch.float16), ("gate.w", torch.bfloat16))
    }
    out.mkdir()
    save_file({**tensors, "steps": torch.arange(1000), "scale": torch.tensor(2.0)}, out / "model.safetensors")
    return out


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "meta": lambda out: sound(out, "meta", parameters=PARAMETERS),
    "slices": lambda out: sound(out, "meta", parameters=PARAMETERS, shards=2),
    "shards": lambda out: sound(out, "safetensors", parameters=PARAMETERS, shards=3),
    "gpt2": lambda out: sound(
        out, "safetensors", parameters=PARAMETERS, architecture="gpt2", dtype="float32"
    ),
    "skeleton": _skeleton,
    "float32": lambda out: sound(out, "meta", parameters=PARAMETERS, dtype="float32"),
    "bin": lambda out: sound(out, "bin", parameters=PARAMETERS, shards=3),
    "files": lambda out: sound(out, "per-tensor", parameters=PARAMETERS),
    "dcp": lambda out: sound(out, "dcp", parameters=PARAMETERS, shards=2),
}  # fmt: skip
LAYOUTS = {
    "meta": "meta", "slices": "meta", "shards": "safetensors-sharded", "gpt2": "safetensors", "skeleton": "safetensors",
    "float32": "meta", "bin": "torch-sharded", "files": "per-tensor", "dcp": "dcp",
}  # fmt: skip


def _runs(strategy: str, checkpoint: str) -> bool:
    if (strategy, checkpoint) == ("stream-quantize", "slices"):  # takes whole tensors
        return False
    architecture = checkpoint if checkpoint in ("gpt2", "skeleton") else "llama"
    return expected(LAYOUTS[checkpoint], architecture)[strategy] == RUNS


class Cell(NamedTuple):
    checkpoint: str
    strategy: str
    dtype: str | None = None
    quantisation: str = "int8"

    def __str__(self) -> str:
        words = f"{self.strategy} on {self.checkpoint} as {self.dtype or 'it is stored'}"
        return f"{words}, in {self.quantisation}" if NATIVE[self.strategy].quantises else words

    @property
    def load_options(self) -> LoadOptions:
        return LoadOptions(dtype=self.dtype, quantisation=self.quantisation)

    @property
    def options(self) -> tuple[str, ...]:
        return ("--quantisation", self.quantisation, *(() if self.dtype is None else ("--dtype", self.dtype)))


# Every kind of memory and every kind of file: pickles and safetensors, one file, slices and shards.
CELLS = [
    Cell("meta", "meta-assign"),
    Cell("slices", "naive"),
    Cell("shards", "mmap-assign"),
    Cell("shards", "sharded"),
]
# Every strategy on every kind of file that it takes, with and without a cast.
MORE_CELLS = [
    cell
    for dtype, name, strategy in itertools.product((None, "bfloat16"), CHECKPOINTS, NATIVE)
    if _runs(strategy, name) and (cell := Cell(name, strategy, dtype)) not in CELLS
]
MORE_CELLS += [
    Cell(name, strategy, None, "nf4")
    for name in CHECKPOINTS
    for strategy in NATIVE
    if NATIVE[strategy].quantises and _runs(strategy, name)
]
PARAMS = [*CELLS, *(pytest.param(cell, marks=pytest.mark.slow) for cell in MORE_CELLS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("theory-holds")


@pytest.fixture(scope="module")
def run_of(folder: Path, request: pytest.FixtureRequest) -> Callable[[Cell], Run]:
    """The run of a cell; all that are selected are run when the first is asked for, two at a time."""
    home = Home(folder / "home")
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    forgotten = [Cell(one["checkpoint"], one["strategy"]) for one in asked if one.keys() >= {"strategy", "item"}]
    found = [cell for one in asked if isinstance(cell := one.get("cell"), Cell)]
    cells = list(dict.fromkeys([*CELLS, *found, *forgotten]))

    def runs(name: str) -> dict[Cell, Run]:
        checkpoint, done = CHECKPOINTS[name](folder / name), {}
        for cell in cells:  # one a command: on a busy machine many together take longer than a command may
            if cell.checkpoint == name:
                ended = home.meminspect("run", "--ckpt", checkpoint, "-s", cell.strategy, *cell.options, "--json")
                assert ended.status == 0, ended
                done[cell] = ended.run
        return done

    futures: dict[str, Future[dict[Cell, Run]]] = {}
    with ThreadPoolExecutor(2 if PARAMETERS <= SMALL else 1) as executor:
        for name in CHECKPOINTS:
            futures[name] = executor.submit(runs, name)
    return lambda cell: futures[cell.checkpoint].result()[cell]


@pytest.mark.parametrize("cell", PARAMS, ids=str)
def test_given_a_real_load_then_it_peaks_where_theory_says_and_for_the_reasons_it_says(
    folder: Path, run_of: Callable[[Cell], Run], cell: Cell
) -> None:
    run = run_of(cell)
    task = task_for(read_checkpoint(folder / cell.checkpoint), cell.load_options)

    least = 60e6 if NATIVE[cell.strategy].quantises else 140e6
    assert run["theory"]["floor_bytes"] > least, "big enough for the tolerance to mean something"
    assert discrepancies(run, list(NATIVE[cell.strategy].ledger(task))) == []


@pytest.mark.parametrize("cell", PARAMS, ids=str)
def test_given_a_real_load_then_every_tensor_is_the_checkpoints(run_of: Callable[[Cell], Run], cell: Cell) -> None:
    tensors = run_of(cell)["tensors"]

    assert tensors["verified"] == tensors["expected"] > 0
    assert tensors["mismatched"] == tensors["unexpected"] == 0


@pytest.mark.parametrize(
    ("checkpoint", "strategy", "item"),
    [
        ("slices", "naive", Item.FLOOR),
        ("slices", "naive", Item.UPCAST),
        ("slices", "naive", Item.DUPLICATE),
        ("shards", "sharded", Item.SHARD),
        ("meta", "meta-assign", Item.FLOOR),
        *(
            pytest.param(*forgotten, marks=pytest.mark.slow)
            for forgotten in (
                ("meta", "naive", Item.FLOOR),
                ("meta", "naive", Item.UPCAST),
                ("meta", "naive", Item.DUPLICATE),
                ("slices", "mmap-assign", Item.STAGING),
                ("gpt2", "meta-assign", Item.FLOOR),
                ("skeleton", "mmap-assign", Item.FLOOR),
                ("shards", "lazy", Item.STAGING),
            )
        ),
    ],
)
def test_given_a_theory_that_forgets_a_term_then_the_comparison_says_so(
    folder: Path, run_of: Callable[[Cell], Run], checkpoint: str, strategy: str, item: str
) -> None:
    run = copy.deepcopy(run_of(Cell(checkpoint, strategy)))
    task = task_for(read_checkpoint(folder / checkpoint), LoadOptions())
    steps = list(NATIVE[strategy].ledger(task))
    assert discrepancies({**run, "theory": theory_document(evaluate(steps, task.floor_bytes))}) == []

    forgetful = evaluate([step for step in steps if step.item != item], task.floor_bytes)

    assert discrepancies({**run, "theory": theory_document(forgetful)}) != []


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_given_a_measurement_that_is_a_tenth_off_then_the_comparison_says_so(
    run_of: Callable[[Cell], Run], share: float
) -> None:
    for cell in CELLS:
        run = copy.deepcopy(run_of(cell))
        off_bytes = int(run["peak"]["rss_bytes"] * (share - 1)) * 2
        run["peak"]["rss_bytes"] += off_bytes
        run["bill"][-1]["bytes"] += off_bytes
        assert len(discrepancies(run)) >= 2, cell
