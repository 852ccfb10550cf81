"""What stays in memory where --max-memory leaves no room for all of a model, and what theory says of the rest."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from meminspect.sampling import interpreter
from meminspect.strategies import LIBRARIES

if TYPE_CHECKING:
    from strategy_tasks import Tasks

    from meminspect.strategies.task import LoadTask

OFFLOADING = ("hf-device-map", "accelerate-dispatch")
EMBEDDING = 400 * 96 * 2  # bytes of the llama of `strategy_tasks` in float16
LAYER = (2 * 96 * 96 + 2 * 48 * 96 + 3 * 256 * 96 + 2 * 96) * 2
ROOM = EMBEDDING + 2 * LAYER  # for the embedding and a layer, beside the largest of what is left: another


@pytest.fixture(autouse=True)
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_version_here", lambda _: "99.0")


def staying(strategy: str, task: LoadTask) -> set[str]:
    left = LIBRARIES[strategy].offloads(task)
    return {one.name for one in task.architecture.parameters if one.name not in left}


def owners(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:3]) for name in names}


@pytest.mark.parametrize("strategy", OFFLOADING)
@pytest.mark.parametrize(
    ("room_bytes", "stay"),
    [
        (EMBEDDING + LAYER, {"model.embed_tokens.weight"}),
        (ROOM - 1, {"model.embed_tokens.weight"}),
        (ROOM, {"model.embed_tokens.weight", "model.layers.0"}),
    ],
)
def test_layer_by_layer_stays_as_long_as_the_largest_to_come_has_room_beside(
    strategy: str, room_bytes: int, stay: set[str], tasks: Tasks
) -> None:
    # given a model whose embedding and head are smaller than a layer
    task = tasks("safetensors 3", max_memory_bytes=room_bytes)
    assert EMBEDDING < LAYER

    assert owners(staying(strategy, task)) == stay
    assert LIBRARIES[strategy].floor_bytes(task) == EMBEDDING + LAYER * (len(stay) - 1)


@pytest.mark.parametrize("strategy", OFFLOADING)
def test_given_room_for_all_then_it_is_a_load_like_any_other(strategy: str, tasks: Tasks) -> None:
    task, plain = tasks("safetensors 3", max_memory_bytes=1 << 30), tasks("safetensors 3")

    assert not LIBRARIES[strategy].offloads(task)
    assert LIBRARIES[strategy].is_whole(task)
    assert LIBRARIES[strategy].theory(task) == LIBRARIES[strategy].theory(plain)
    assert LIBRARIES[strategy].remark(task) == ""


@pytest.mark.parametrize("strategy", OFFLOADING)
def test_a_tied_head_stays_with_its_embedding(strategy: str, tasks: Tasks) -> None:
    task = tasks("gpt2")
    half = task.floor_bytes * 3 // 4
    names = staying(strategy, tasks("gpt2", max_memory_bytes=half))

    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= names
    assert "transformer.ln_f.weight" not in names
    assert "lm_head.weight" in names or all(one.name != "lm_head.weight" for one in task.architecture.parameters)


@pytest.mark.parametrize("strategy", OFFLOADING)
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "safetensors 3",
            {"max_memory_bytes": EMBEDDING + LAYER - 1},
            "nothing of the model stays within --max-memory",
        ),
        ("safetensors 3", {"max_memory_bytes": 0}, "nothing of the model stays within --max-memory 0 B"),
    ],
)
def test_given_room_for_nothing_then_it_is_refused_in_a_sentence(
    strategy: str, name: str, options: dict[str, int], words: str, tasks: Tasks
) -> None:
    assert words in (LIBRARIES[strategy].why_not(tasks(name, **options)) or "")


def test_given_a_gpu_then_the_rest_goes_to_disk_with_transformers_alone(tasks: Tasks) -> None:
    task = tasks("safetensors 3", device="cuda:1", max_memory_bytes=ROOM)

    assert "max_memory={1: " in LIBRARIES["hf-device-map"].recipe(task)
    assert "on the cpu alone" in (LIBRARIES["accelerate-dispatch"].why_not(task) or "")
    peak = LIBRARIES["hf-device-map"].theory(task).peak
    assert (peak.heap_bytes, peak.file_bytes) == (0, EMBEDDING + LAYER)
    assert EMBEDDING + LAYER <= (peak.vram_allocated_bytes or 0) < task.floor_bytes


def test_given_no_cast_then_what_is_left_on_disk_is_never_touched(tasks: Tasks) -> None:
    theory = LIBRARIES["hf-device-map"].theory(tasks("safetensors 3", max_memory_bytes=ROOM))

    assert (theory.peak.heap_bytes, theory.peak.file_bytes) == (0, EMBEDDING + LAYER)
    assert theory.steady == theory.peak


def test_given_a_cast_then_what_is_left_on_disk_is_cast_too_and_one_is_kept_until_the_next_is_there(
    tasks: Tasks,
) -> None:
    task = tasks("safetensors 3", max_memory_bytes=ROOM, dtype="bfloat16")
    theory = LIBRARIES["hf-device-map"].theory(task)

    two = 2 * 256 * 96 * 2  # of a feed-forward, one after the other
    assert (theory.peak.heap_bytes, theory.peak.file_bytes) == (EMBEDDING + LAYER + two, task.checkpoint.nbytes)
    assert (theory.steady.heap_bytes, theory.steady.file_bytes) == (EMBEDDING + LAYER, 0)


def test_accelerate_writes_all_of_the_model_and_reads_back_what_stays_beside_the_last_file(tasks: Tasks) -> None:
    task = tasks("safetensors 3", max_memory_bytes=ROOM)
    strategy = LIBRARIES["accelerate-dispatch"]
    theory = strategy.theory(task)

    assert strategy.scratch_bytes(task) == task.checkpoint.nbytes
    assert theory.peak.heap_bytes == theory.steady.heap_bytes == EMBEDDING + LAYER
    last = EMBEDDING + LAYER + task.checkpoint.shard_nbytes[-1]
    assert last < theory.peak_rss_bytes <= last + EMBEDDING
    assert theory.steady.file_bytes == 0


@pytest.mark.parametrize("strategy", OFFLOADING)
def test_what_is_left_on_disk_is_said_and_is_no_whole_model(strategy: str, tasks: Tasks) -> None:
    task = tasks("safetensors 3", max_memory_bytes=ROOM)

    ast.parse(LIBRARIES[strategy].recipe(task))
    assert f"device_map=\"auto\", max_memory={{'cpu': {ROOM}}}" in LIBRARIES[strategy].recipe(task)
    assert not LIBRARIES[strategy].is_whole(task)
    assert "are left on disk: each pass reads them from there" in LIBRARIES[strategy].remark(task)
    assert ("were written to a temporary folder" in LIBRARIES[strategy].remark(task)) == (strategy != "hf-device-map")
