"""The strategies that call the field's libraries: whom they take, what they write, and what theory says of them."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meminspect.checkpoint import read_checkpoint
from meminspect.sampling import interpreter
from meminspect.sampling.interpreter import Interpreter
from meminspect.strategies import LIBRARIES, LoadOptions
from meminspect.strategies.task import LoadTask, task_for

if TYPE_CHECKING:
    from pathlib import Path

    from strategy_tasks import Tasks

THROUGH_TRANSFORMERS = (
    "hf-pretrained", "hf-device-map", "accelerate-dispatch", "hf-naive", "bnb-int8", "bnb-nf4", "torchao-int8",
)  # fmt: skip
READERS = ("fastsafetensors", "runai-streamer")


@pytest.fixture(autouse=True)
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_version_here", lambda _: "99.0")


def peaks(strategy: str, task: LoadTask) -> tuple[int | None, int | None]:
    peak = LIBRARIES[strategy].theory(task).peak
    return peak.heap_bytes, peak.file_bytes


@pytest.mark.parametrize("strategy", LIBRARIES)
def test_each_takes_the_files_of_its_library_and_refuses_others_in_a_sentence(strategy: str, tasks: Tasks) -> None:
    folder, pickle = tasks("safetensors 3"), tasks("meta")

    assert (LIBRARIES[strategy].why_not(folder) is None) == (strategy in (*THROUGH_TRANSFORMERS, *READERS))
    assert (LIBRARIES[strategy].why_not(pickle) is None) == (strategy.startswith("fabric-"))
    ast.parse(LIBRARIES[strategy].recipe(folder))
    for task in (folder, pickle):
        assert (LIBRARIES[strategy].why_not(task) or "as it should").isprintable()


@pytest.mark.parametrize("strategy", LIBRARIES)
def test_given_a_package_that_is_absent_or_too_old_then_the_sentence_says_how_to_get_it(
    strategy: str, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks("meta" if strategy.startswith("fabric-") else "safetensors")
    for version, words in ((None, "has no "), ("0.0.1", "or newer is needed: ")):
        monkeypatch.setattr(interpreter, "_version_here", lambda _, version=version: version)
        why_not = LIBRARIES[strategy].why_not(task)
        assert why_not is not None
        assert words in why_not
        assert "pip install 'meminspect[" in why_not
    theirs = Interpreter("/usr/bin/python3", "3.11.2", {"torch": "2.8.0", "safetensors": "0.8.0"})
    elsewhere = replace(task, options=replace(task.options, interpreter=theirs))
    assert "environment of --python has no" in (LIBRARIES[strategy].why_not(elsewhere) or "")


def test_given_no_cast_then_what_transformers_maps_is_the_model(tasks: Tasks) -> None:
    task = tasks("safetensors 3")
    for strategy in ("hf-pretrained", "hf-device-map", "accelerate-dispatch"):
        assert peaks(strategy, task) == (0, task.checkpoint.nbytes)


def test_given_a_cast_then_from_pretrained_holds_every_file_and_accelerate_one(tasks: Tasks) -> None:
    task = tasks("safetensors 3", dtype="bfloat16")
    assert peaks("hf-pretrained", task) == (task.floor_bytes, task.checkpoint.nbytes)
    heap_bytes, file_bytes = peaks("accelerate-dispatch", task)
    assert (heap_bytes, file_bytes) == (task.floor_bytes, max(task.checkpoint.shard_nbytes))


def test_given_a_device_map_of_a_gpu_then_the_host_has_the_mapping_alone(tasks: Tasks) -> None:
    task = tasks("safetensors 3", device="cuda")
    peak = LIBRARIES["hf-device-map"].theory(task).peak
    assert (peak.heap_bytes, peak.file_bytes) == (0, task.checkpoint.nbytes)
    assert (peak.vram_allocated_bytes or 0) >= task.floor_bytes


def test_given_a_quantisation_then_all_files_stay_mapped_for_what_is_not_quantised(tasks: Tasks) -> None:
    task = tasks("safetensors")
    for strategy in ("bnb-int8", "bnb-nf4", "torchao-int8"):
        theory = LIBRARIES[strategy].theory(task)
        assert theory.peak.file_bytes == theory.steady.file_bytes == task.checkpoint.nbytes
        assert theory.floor_bytes < task.floor_bytes
        assert LIBRARIES[strategy].changes


def configured(task: LoadTask, **changes: object) -> LoadTask:
    """The same with another config; None leaves a key out."""
    config = {**(task.checkpoint.config or {}), **changes}
    known = {key: value for key, value in config.items() if value is not None}
    return replace(task, checkpoint=replace(task.checkpoint, config=known))


def test_given_a_config_without_a_dtype_then_what_is_asked_for_is_told(tasks: Tasks) -> None:
    recipe = LIBRARIES["hf-pretrained"].recipe
    assert 'dtype="auto"' in recipe(configured(tasks("safetensors"), torch_dtype=None))
    assert "dtype=torch.bfloat16" in recipe(configured(tasks("safetensors", dtype="bfloat16"), torch_dtype=None))


@pytest.mark.parametrize("named", ["float8_e4m3fn", "x; import os"])
@pytest.mark.parametrize("strategy", THROUGH_TRANSFORMERS)
def test_given_a_dtype_that_no_model_can_have_in_the_config_then_it_says_so(
    tasks: Tasks, strategy: str, named: str
) -> None:
    task = configured(tasks("safetensors"), torch_dtype=named)
    why_not = LIBRARIES[strategy].why_not(task)
    assert why_not == f"its config names the dtype {named}, in which torch builds no model: name another there"
    assert named not in LIBRARIES[strategy].recipe(task)
    assert LIBRARIES[strategy].theory(task).floor_bytes, "a run that is refused has its theory all the same"


def test_accelerate_casts_to_the_dtype_of_the_config(tasks: Tasks) -> None:
    task = tasks("safetensors 3")
    assert peaks("accelerate-dispatch", configured(task, torch_dtype="float32"))[0] == 2 * task.floor_bytes


def test_given_weights_that_are_quantised_already_then_nothing_builds_plain_layers_for_them(tasks: Tasks) -> None:
    task = tasks("safetensors")
    quantised = replace(task, checkpoint=replace(task.checkpoint, quantisation="GPTQ, 4 bits"))
    for strategy in ("accelerate-dispatch", "hf-naive"):
        assert "quantised (GPTQ, 4 bits), and it builds plain layers" in (LIBRARIES[strategy].why_not(quantised) or "")
    assert LIBRARIES["hf-pretrained"].why_not(quantised) is None


def test_fabric_holds_model_and_checkpoint_and_makes_random_numbers_only_where_it_is_told_to(tasks: Tasks) -> None:
    task = tasks("meta", dtype="bfloat16")
    for strategy, empty in (("fabric-init-module", True), ("fabric-random-init", False)):
        assert f"init_module(empty_init={empty})" in LIBRARIES[strategy].recipe(task)
        assert peaks(strategy, task) == (task.floor_bytes + task.checkpoint.nbytes, 0)
        built = [step for step in LIBRARIES[strategy].ledger(task) if step.phase == "build"]
        assert sum(step.delta_bytes for step in built) == (0 if empty else task.floor_bytes)


def test_given_a_cast_then_a_buffer_of_a_file_goes_with_the_last_tensor_in_it(tasks: Tasks) -> None:
    task = tasks("safetensors 3", dtype="bfloat16")
    heap_bytes, _ = peaks("fastsafetensors", task)
    assert heap_bytes is not None
    first, *others = task.checkpoint.shard_nbytes
    # While the last file's tensors are cast only that buffer is left; before that the first goes when it is done.
    assert heap_bytes >= first + sum(others) + max(first, *others) - 1


@pytest.mark.parametrize(
    ("architectures", "name"),
    [
        (["LlamaForCausalLM"], "AutoModelForCausalLM"), (["BertForMaskedLM"], "BertForMaskedLM"),
        (["X; import os"], "AutoModel"), ("LlamaForCausalLM", "AutoModel"), ([["a"]], "AutoModel"), ([], "AutoModel"),
    ],
)  # fmt: skip
def test_a_config_names_a_class_and_no_other_code(
    tasks: Tasks, tmp_path: Path, architectures: object, name: str
) -> None:
    source = tasks.path("safetensors")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    task = task_for(read_checkpoint(tmp_path), LoadOptions())

    assert f"from transformers import {name}\n" in LIBRARIES["hf-pretrained"].recipe(task)
    assert "import os" not in LIBRARIES["hf-naive"].recipe(task)
