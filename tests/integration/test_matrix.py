"""Strategy × layout × architecture: which combinations run, and with which sentence the others are refused.

A strategy, layout or architecture that is not named in the tables below fails them.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from worker_runs import WorkerRun, event_lines, ledger_lines, run_worker

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import LAYOUTS, read_checkpoint
from meminspect.engine.warmup import tiny_twin
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import naming_for, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.strategies import LoadTask

# What reads a checkpoint file by file reads every layout but those that only their own library reads.
BY_FILE: Final = ("mmap-assign", "meta-assign", "sharded", "naive")
NOT_DCP: Final = "torch.distributed.checkpoint copies chunk by chunk into tensors that exist"
NOT_GGUF: Final = "the gguf package maps the file and reads no part of it"
RUNS: Final = ""
EXPECTED: Final[dict[str, dict[str, str]]] = {
    "meta": dict.fromkeys(BY_FILE, RUNS),
    "safetensors": dict.fromkeys(BY_FILE, RUNS),
    "safetensors-sharded": dict.fromkeys(BY_FILE, RUNS),
    "torch": dict.fromkeys(BY_FILE, RUNS),
    "torch-sharded": dict.fromkeys(BY_FILE, RUNS),
    "litgpt": dict.fromkeys(BY_FILE, RUNS),
    "per-tensor": dict.fromkeys(BY_FILE, RUNS),
    "dcp": {"mmap-assign": NOT_DCP, "meta-assign": RUNS, "sharded": NOT_DCP, "naive": RUNS},
    "gguf": {"mmap-assign": RUNS, "meta-assign": NOT_GGUF, "sharded": RUNS, "naive": RUNS},
}
HAS_GGUF: Final = importlib.util.find_spec("gguf") is not None

SKELETON: Final = "skeleton"
# How a layout is synthesised, and of which architectures it is recognised; of all others it is a skeleton.
WRITERS: Final[dict[str, tuple[str, int, tuple[str, ...]]]] = {
    "meta": ("meta", 1, ("llama",)),
    "safetensors": ("safetensors", 1, ("llama", "gpt2")),
    "safetensors-sharded": ("safetensors", 2, ("llama", "gpt2")),
    "torch": ("bin", 1, ("llama", "gpt2")),
    "torch-sharded": ("bin", 2, ("llama", "gpt2")),
    "litgpt": ("litgpt", 1, ("litgpt",)),
    "per-tensor": ("per-tensor", 1, ("llama", "gpt2")),
    "dcp": ("dcp", 2, ("llama", "gpt2")),
    "gguf": ("gguf", 1, ()),
}
# One run for each layout that this file is the only one to load.
FAST: Final = {("per-tensor", "llama", "sharded"), ("dcp", "gpt2", "meta-assign"), ("gguf", SKELETON, "mmap-assign")}


class Cell(NamedTuple):
    layout: str
    architecture: str
    strategy: str

    def __str__(self) -> str:
        return f"{self.strategy} on {self.layout} of {self.architecture}"


PAIRS = [(layout, architecture) for layout, (_, _, known) in WRITERS.items() for architecture in (*known, SKELETON)]
CELLS = [
    Cell(layout, architecture, strategy)
    for layout, architecture in PAIRS
    for strategy, sentence in EXPECTED[layout].items()
    if sentence == RUNS and (layout != "gguf" or HAS_GGUF)
]


def test_the_tables_name_every_layout_strategy_and_architecture() -> None:
    assert EXPECTED.keys() == WRITERS.keys() == {layout.id for layout in LAYOUTS}
    assert all(row.keys() == STRATEGIES.keys() for row in EXPECTED.values())
    assert {architecture for _, architecture in PAIRS} == {*ARCHITECTURES, SKELETON}


def _write(layout: str, architecture: str, folder: Path) -> Path:
    writer, shards, known = WRITERS[layout]
    out = folder / f"{layout}-{architecture}"
    model = architecture if architecture != SKELETON else "litgpt" if layout == "litgpt" else "llama"
    tiny_checkpoint(model, naming_for(model, writer), writer, "float16", out, shards=shards)
    if architecture == SKELETON:
        for config in ("params.json", "config.json", "lit_config.json"):  # by its names alone it is no known model
            (out / config).unlink(missing_ok=True)
    assert architecture == SKELETON or architecture in known
    return out


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("matrix")
    written: dict[tuple[str, str], Path] = {}

    def path(layout: str, architecture: str) -> Path:
        if (layout, architecture) not in written:
            written[layout, architecture] = _write(layout, architecture, folder)
        return written[layout, architecture]

    return path


def _task(path: Path) -> LoadTask:
    return task_for(read_checkpoint(path), LoadOptions())


@pytest.mark.parametrize(("layout", "architecture"), PAIRS)
def test_each_combination_is_available_or_refused_with_its_sentence(
    checkpoint_of: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, layout: str, architecture: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # as if everything were installed
    task = _task(checkpoint_of(layout, architecture))

    assert (task.checkpoint.layout, task.architecture.id) == (layout, architecture)
    for strategy, sentence in EXPECTED[layout].items():
        why_not = STRATEGIES[strategy].why_not(task)
        assert (why_not is None) == (sentence == RUNS), (strategy, why_not)
        assert (why_not or "").startswith(sentence)
        assert why_not is not None or STRATEGIES[strategy].theory(task).peak_rss_bytes >= task.floor_bytes


def test_given_no_gguf_package_then_the_sentence_says_how_to_get_it(
    checkpoint_of: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install gguf" in (STRATEGIES["naive"].why_not(_task(checkpoint_of("gguf", SKELETON))) or "")


def _run(cell: Cell, path: Path) -> WorkerRun:
    with tiny_twin(_task(path)) as tiny:
        return run_worker(cell.strategy, path, tiny, LoadOptions())


@pytest.fixture(scope="module")
def run_of(checkpoint_of: Callable[[str, str], Path], request: pytest.FixtureRequest) -> Callable[[Cell], WorkerRun]:
    """The run of a cell; all that were selected are started when the first is asked for, two at a time."""
    wanted = {item.callspec.params["cell"] for item in request.session.items if hasattr(item, "callspec")
              and "cell" in item.callspec.params}  # fmt: skip
    with ThreadPoolExecutor(2) as executor:
        runs: dict[Cell, Future[WorkerRun]] = {
            cell: executor.submit(_run, cell, checkpoint_of(cell.layout, cell.architecture))
            for cell in CELLS
            if cell in wanted
        }
    return lambda cell: runs[cell].result()


@pytest.mark.parametrize(
    "cell", [cell if cell in FAST else pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS], ids=str
)
def test_each_available_combination_loads_every_tensor_in_the_order_of_theory(
    run_of: Callable[[Cell], WorkerRun], cell: Cell
) -> None:
    run = run_of(cell)

    expected = len(run.task.pieces)
    assert run.status == 0, run.log
    assert run.reports["tensors"] == {
        "expected": expected, "verified": expected, "mismatched": 0, "missing": 0, "unexpected": 0,
        "names": {"mismatched": [], "missing": [], "unexpected": []},
    }  # fmt: skip
    assert event_lines(run) == ledger_lines(run)
