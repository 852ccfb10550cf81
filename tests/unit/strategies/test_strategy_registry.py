from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meminspect import strategies
from meminspect.architectures import Architecture
from meminspect.errors import UsageError
from meminspect.strategies import LIBRARIES, NATIVE, STRATEGIES, Strategy, find, libraries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from strategy_tasks import Tasks

# What is in the folder beside the strategies themselves.
SHARED = {
    "__init__", "dcp_lines", "grouping", "materialising", "module_order", "own_readers", "quantisation", "recipes",
    "recognition", "packages", "hugging_face", "offloading", "quantised_load", "plugins",
    "sources", "steps", "strategy", "streaming", "task",
}  # fmt: skip


@pytest.mark.parametrize(("folder", "registered"), [(strategies, NATIVE), (libraries, LIBRARIES)])
def test_every_file_of_the_folder_is_a_registered_strategy_named_after_it(
    folder: ModuleType, registered: Mapping[str, Strategy]
) -> None:
    files = {path.stem for path in Path(str(folder.__file__)).parent.glob("*.py")} - SHARED
    assert {id_.replace("-", "_") for id_ in registered} == files
    for stem in files:
        strategy = importlib.import_module(f"{folder.__name__}.{stem}").STRATEGY
        assert STRATEGIES[stem.replace("_", "-")] is strategy
        assert bool(strategy.packages) == (registered is LIBRARIES)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_strategy_is_found_by_its_id_and_says_in_a_line_each_what_it_is(strategy: Strategy) -> None:
    assert find(strategy.id) is strategy
    for text in (strategy.summary, strategy.good, strategy.bad):
        assert text.isprintable()
        assert 10 < len(text) <= 120
        assert not text.endswith(".")


def test_an_unknown_strategy_is_refused_with_the_choice() -> None:
    with pytest.raises(UsageError, match="there is no strategy 'magic'") as caught:
        find("magic")
    assert all(id_ in caught.value.hint for id_ in STRATEGIES)


@pytest.mark.parametrize("strategy", NATIVE.values(), ids=NATIVE)
def test_what_cannot_be_loaded_is_said_in_a_sentence(strategy: Strategy, tasks: Tasks) -> None:
    for task in (tasks("meta 2"), tasks("odd pth", dtype="bfloat16"), tasks("meta", device="cuda:1")):
        known = not strategy.changes or task.architecture.id != "skeleton"
        slices = strategy.id == "stream-quantize" and task.checkpoint.parallel_files
        assert (strategy.why_not(task) is None) == (known and not slices and strategy.id != "per-tensor-files")
    for task, word in [
        (tasks("meta", device="abacus"), "abacus"),
        (tasks("meta", dtype="int8"), "int8"),
        (tasks("meta", init_dtype="float8_e4m3fn"), "float8_e4m3fn"),
        (replace(tasks("meta 2"), architecture=Architecture("skeleton", "checkpoint", {}, ())), "slices"),
    ]:
        why_not = strategy.why_not(task)
        assert why_not is not None
        assert word in why_not
        assert why_not.isprintable()


def test_files_for_each_tensor_are_what_their_strategy_takes_and_nothing_else(tasks: Tasks) -> None:
    strategy, task = STRATEGIES["per-tensor-files"], tasks("meta")
    assert "a file for each tensor" in (strategy.why_not(task) or "")
    assert strategy.why_not(replace(task, checkpoint=replace(task.checkpoint, layout="per-tensor"))) is None


def test_nothing_that_the_front_ends_import_of_strategies_needs_torch() -> None:
    program = (
        "import sys; sys.path[:] = sys.argv[1].split('\\n'); import meminspect.strategies, meminspect.strategies.task;"
        "print({'torch', 'numpy', 'safetensors'} & sys.modules.keys() or 'none')"
    )
    command = [sys.executable, "-c", program, "\n".join(sys.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "none"


@pytest.mark.parametrize(
    ("id_", "name", "maps"),
    [
        ("naive", "safetensors 3", True), ("sharded", "safetensors 3", True), ("mmap-assign", "safetensors 3", True),
        ("mmap-assign", "meta", True), ("meta-assign", "safetensors 3", False), ("naive", "meta", False),
    ],
)  # fmt: skip
def test_a_file_larger_than_the_kernel_lets_one_map_is_said_before_it_fails(
    tasks: Tasks, id_: str, name: str, maps: bool
) -> None:
    task, strategy = tasks(name), STRATEGIES[id_]
    largest = max(file.nbytes for file in task.checkpoint.files)

    assert strategy.why_not(task, largest) is None
    refused = strategy.why_not(task, largest - 1)

    assert (refused is not None) == maps
    assert refused is None or "vm.overcommit_memory" in refused
