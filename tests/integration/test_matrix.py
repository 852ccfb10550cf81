"""Strategy × layout × architecture: which combinations run, and with which sentence the others are refused.

A strategy, layout or architecture that is not named in the tables below fails them.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from worker_runs import event_lines, ledger_lines, run_worker

from meminspect.architectures import ARCHITECTURES
from meminspect.checkpoint import LAYOUTS, read_checkpoint
from meminspect.engine.warmup import tiny_twin
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import naming_for, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.strategies import LoadTask

PLAIN: Final = (
    "stream", "mmap-assign", "lazy", "meta-assign", "init-module", "skip-init", "sharded", "sequential",
    "direct-device", "naive-cast", "naive",
)  # fmt: skip
KNOWS_LAYERS: Final = (
    "adapters",
    "stream-quantize",
    "lazy-quantize",
    "quantize-after",
)  # these change what an architecture calls linear
RUNS: Final = ""
SKELETON: Final = "skeleton"  # nobody knows which of its layers are linear
ONE_FILE_A_TENSOR: Final = {"per-tensor-files": "it takes a checkpoint with a file for each tensor"}
UNKNOWN_LAYERS: Final = dict.fromkeys(KNOWS_LAYERS, "nobody knows which tensors of a model of unknown architecture")
BY_FILE: Final = {**dict.fromkeys((*PLAIN, *KNOWS_LAYERS), RUNS), **ONE_FILE_A_TENSOR}
NOT_DCP: Final = "torch.distributed.checkpoint copies chunk by chunk into tensors that exist"
IN_CHUNKS: Final = dict.fromkeys(("stream", "stream-quantize"), "tensors are stored in chunks, as ")
TURNED: Final = {"stream-quantize": "it quantises rows as they lie, and these weights are stored transposed"}
GGUF: Final = ("stream", "stream-quantize", "mmap-assign", "sharded", "naive")
NOT_GGUF: Final = "the gguf package maps the file and reads no part of it"
EXPECTED: Final[dict[str, dict[str, str]]] = {
    "meta": BY_FILE,
    "safetensors": BY_FILE,
    "safetensors-sharded": BY_FILE,
    "torch": BY_FILE,
    "torch-sharded": BY_FILE,
    "litgpt": BY_FILE,
    "per-tensor": {**BY_FILE, "per-tensor-files": RUNS},
    "dcp": {**dict.fromkeys(BY_FILE, NOT_DCP), "meta-assign": RUNS, "naive": RUNS, **IN_CHUNKS},
    "gguf": {**dict.fromkeys(BY_FILE, NOT_GGUF), **dict.fromkeys(GGUF, RUNS)},
}


def expected(layout: str, architecture: str) -> dict[str, str]:
    """For every strategy how the sentence begins with which it refuses; empty where it runs."""
    row = EXPECTED[layout]
    if architecture == "gpt2" and layout != "per-tensor":  # as Hugging Face names and stores it
        return {strategy: sentence or TURNED.get(strategy, RUNS) for strategy, sentence in row.items()}
    if architecture != SKELETON:
        return row
    return {strategy: sentence or UNKNOWN_LAYERS.get(strategy, RUNS) for strategy, sentence in row.items()}


HAS_GGUF: Final = importlib.util.find_spec("gguf") is not None

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
FAST: Final = {("dcp", "gpt2", "meta-assign"), ("gguf", SKELETON, "stream")}


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
    for strategy, sentence in expected(layout, architecture).items()
    if sentence == RUNS and (layout != "gguf" or HAS_GGUF or strategy == "stream")
]


def test_the_tables_name_every_layout_strategy_and_architecture() -> None:
    assert EXPECTED.keys() == WRITERS.keys() == {layout.id for layout in LAYOUTS}
    assert all(row.keys() == NATIVE.keys() for row in EXPECTED.values())
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
    for strategy, sentence in expected(layout, architecture).items():
        why_not = NATIVE[strategy].why_not(task)
        assert (why_not is None) == (sentence == RUNS), (strategy, why_not)
        assert (why_not or "").startswith(sentence)
        if why_not is None:
            theory = NATIVE[strategy].theory(task)
            assert theory.peak_rss_bytes >= theory.floor_bytes


def test_given_no_gguf_package_then_the_sentence_says_how_to_get_it(
    checkpoint_of: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    task = _task(checkpoint_of("gguf", SKELETON))
    assert "pip install gguf" in (NATIVE["naive"].why_not(task) or "")
    assert NATIVE["stream"].why_not(task) is None


@pytest.mark.parametrize(
    "cell", [cell if cell in FAST else pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS], ids=str
)
def test_each_available_combination_loads_every_tensor_in_the_order_of_theory(
    checkpoint_of: Callable[[str, str], Path], cell: Cell
) -> None:
    path = checkpoint_of(cell.layout, cell.architecture)

    with tiny_twin(_task(path)) as tiny:
        run = run_worker(cell.strategy, path, tiny, LoadOptions())

    tensors = run.reports["tensors"]
    assert run.status == 0, run.log
    assert tensors["verified"] == tensors["expected"] == len(run.task.pieces)
    assert (tensors["mismatched"], tensors["unexpected"]) == (0, 0)
    assert tensors["missing"] == 0 or cell.strategy == "adapters", "whose own parameters no checkpoint has"
    assert event_lines(run) == ledger_lines(run)
