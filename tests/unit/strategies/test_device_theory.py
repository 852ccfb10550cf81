"""The theories of loads to a device in closed form: what is on the device, and what the host holds meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from strategy_tasks import cells, initial_bytes

from meminspect.capture.records import Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import NATIVE
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from strategy_tasks import Tasks

    from meminspect.strategies import LoadTask
    from meminspect.theory.ledger import Theory

OPTIONS: list[dict[str, str]] = [{}, {"dtype": "bfloat16"}, {"read_to": "host"}, {"init_dtype": "float16"}]


def peaks(strategy: str, task: LoadTask) -> tuple[int, int | None, int | None]:
    """Device (what was asked for, without the allocator's rounding), heap and file."""
    theory = NATIVE[strategy].theory(task)
    return asked_for(theory), theory.peak.heap_bytes, theory.peak.file_bytes


def asked_for(theory: Theory) -> int:
    """Bytes of the tensors that were on the device when most was allocated."""
    return sum(line.nbytes for line in theory.bill if line.pool == "vram" and line.item != Item.ALLOCATOR)


def largest(task: LoadTask, dtype: str | None = None) -> int:
    """t: bytes of the largest tensor, in a dtype or as it is stored."""
    return max(bytes_of(dtype or tensor.dtype, tensor.elements) for tensor in task.checkpoint.tensors)


def test_naive_holds_the_random_model_and_the_checkpoint_on_the_device(tasks: Tasks) -> None:
    task = tasks("meta", device="cuda")
    w, c = initial_bytes(task), task.checkpoint.nbytes
    assert peaks("naive", task) == (w + c, w, 0)


def test_naive_that_reads_to_the_host_holds_the_checkpoint_there_and_converts_there(tasks: Tasks) -> None:
    task = tasks("meta", device="cuda", read_to="host", init_dtype="float32")
    w, c = initial_bytes(task), task.checkpoint.nbytes
    assert peaks("naive", task) == (w, max(w, c + largest(task, "float32")), 0)


def test_sharded_holds_the_model_on_the_device_and_a_shard_on_the_host(tasks: Tasks) -> None:
    task = tasks("safetensors 3", device="cuda")
    w, s = initial_bytes(task), max(task.checkpoint.shard_nbytes)
    assert peaks("sharded", task) == (w, w, s)


@pytest.mark.parametrize(("id_", "name"), [("meta-assign", "meta"), ("mmap-assign", "safetensors")])
def test_what_is_assigned_is_on_the_device_once_and_came_over_the_host(id_: str, name: str, tasks: Tasks) -> None:
    task = tasks(name, device="cuda")
    c = task.checkpoint.nbytes
    assert peaks(id_, task) == ((c, 0, c) if id_ == "mmap-assign" else (c, c, 0))
    theory = NATIVE[id_].theory(task)
    assert (theory.steady.heap_bytes, theory.steady.file_bytes) == (0, 0)
    assert theory.steady.vram_allocated_bytes == theory.peak.vram_allocated_bytes


@pytest.mark.parametrize(
    ("id_", "options", "expected"),
    [
        ("naive-cast", {}, "W + C, host W"),
        ("direct-device", {}, "W + C, host t"),
        ("direct-device", {"read_to": "host"}, "W, host C + t32"),
        ("init-module", {}, "T, host C"),
        ("skip-init", {}, "T + C, host t"),
        ("skip-init", {"read_to": "host"}, "T, host C"),
        ("sequential", {}, "W + t, host W"),
        ("per-tensor-files", {}, "T, host t"),
        ("lazy", {}, "T, host 0"),
    ],
)
def test_the_catalogue_holds(id_: str, options: dict[str, str], expected: str, tasks: Tasks) -> None:
    task = tasks("meta", device="cuda", **options)
    t, w = largest(task), initial_bytes(task)
    terms = {"W": w, "C": task.checkpoint.nbytes, "T": task.floor_bytes, "t": t, "t32": 2 * t, "0": 0}

    on_device, host = (sum(terms[term] for term in side.split(" + ")) for side in expected.split(", host "))

    assert peaks(id_, task)[:2] == (on_device, host)


def test_a_cast_on_the_device_costs_a_tensor_there_and_nothing_on_the_host(tasks: Tasks) -> None:
    task = tasks("safetensors", device="cuda", dtype="float32")
    on_device, heap, _ = peaks("mmap-assign", task)
    assert task.floor_bytes < on_device <= task.floor_bytes + largest(task)
    assert heap == 0


CELLS = cells(*OPTIONS)


@pytest.mark.parametrize(("id_", "name", "options"), CELLS, ids=str)
def test_every_cell_of_the_matrix_balances_and_leaves_nothing_on_the_host(
    id_: str, name: str, options: dict[str, str], tasks: Tasks
) -> None:
    task = tasks(name, device="cuda", **options)
    live = dict.fromkeys(Pool, 0)
    for step in NATIVE[id_].steps(task):
        live[step.pool] += step.delta_bytes
        assert live[step.pool] >= 0
    assert live[Pool.HEAP] == live[Pool.FILE] == live[Pool.PINNED] == 0
    theory = NATIVE[id_].theory(task)
    assert evaluate(NATIVE[id_].steps(task), theory.floor_bytes) == theory
    on_device = sum(line.nbytes for line in theory.bill if line.pool == "vram")
    assert on_device == theory.peak.vram_allocated_bytes
    assert sum(line.nbytes for line in theory.bill) - on_device == theory.peak_rss_bytes
    untied = {parameter.name for parameter in task.architecture.parameters if parameter.tied_to is None}
    assert untied <= {step.tensor for step in NATIVE[id_].ledger(task)}
