"""The theories in closed form, with the symbols of the catalogue: W, C, T, S, t."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from strategy_tasks import cells, initial_bytes

from meminspect.capture.records import Operation, Pool
from meminspect.dtypes import bytes_of
from meminspect.strategies import NATIVE
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from strategy_tasks import Tasks

    from meminspect.strategies import LoadTask
    from meminspect.theory.ledger import Theory

OPTIONS: list[dict[str, str]] = [{}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {"init_dtype": "float16"}]
CELLS = cells(*OPTIONS)


def theory(strategy: str, task: LoadTask) -> Theory:
    return NATIVE[strategy].theory(task)


def pools(theory: Theory) -> tuple[int | None, int | None]:
    return theory.peak.heap_bytes, theory.peak.file_bytes


def split_bytes(task: LoadTask) -> int:
    """Bytes of the tensors that model-parallel files slice."""
    return sum(tensor.nbytes for tensor in task.checkpoint.tensors if task.split_dims[tensor.name] is not None)


def test_naive_on_a_pickle_holds_the_float32_model_and_the_checkpoint(tasks: Tasks) -> None:
    task = tasks("meta")
    w, c = initial_bytes(task), task.checkpoint.nbytes
    assert w == 2 * c
    assert pools(theory("naive", task)) == (3 * c, 0)
    assert theory("naive", task).steady.heap_bytes == w


def test_naive_on_safetensors_holds_the_model_on_the_heap_and_maps_the_checkpoint(tasks: Tasks) -> None:
    task = tasks("safetensors")
    c = task.checkpoint.nbytes
    found = theory("naive", task)
    assert pools(found) == (2 * c, c)
    assert found.peak_rss_bytes == 3 * c
    assert (found.steady.heap_bytes, found.steady.file_bytes) == (2 * c, 0)


def test_naive_in_the_checkpoints_own_dtype_needs_twice_the_checkpoint(tasks: Tasks) -> None:
    task = tasks("meta", init_dtype="float16")
    found = theory("naive", task)
    assert pools(found) == (2 * task.checkpoint.nbytes, 0)
    assert {line.item for line in found.bill} == {Item.FLOOR, Item.DUPLICATE}


def test_naives_bill_says_what_three_checkpoints_are_made_of(tasks: Tasks) -> None:
    task = tasks("meta")
    c = task.checkpoint.nbytes
    lines = {line.item: line.nbytes for line in theory("naive", task).bill}
    assert lines == {Item.FLOOR: c, Item.UPCAST: c, Item.DUPLICATE: c}


@pytest.mark.parametrize("name", ["safetensors 3", "meta 2"])
def test_sharded_holds_the_model_and_the_largest_shard(name: str, tasks: Tasks) -> None:
    task = tasks(name)
    w, s = initial_bytes(task), max(task.checkpoint.shard_nbytes)
    found = theory("sharded", task)
    assert found.peak_rss_bytes == w + s
    assert pools(found) == ((w, s) if name.startswith("safetensors") else (w + s, 0))
    assert (found.steady.heap_bytes, found.steady.file_bytes) == (w, 0)


@pytest.mark.parametrize("name", ["meta", "safetensors"])
def test_sharded_with_a_single_file_is_naive(name: str, tasks: Tasks) -> None:
    assert pools(theory("sharded", tasks(name))) == pools(theory("naive", tasks(name)))


@pytest.mark.parametrize("name", ["meta", "safetensors", "safetensors 3", "teaching", "odd pth", "odd safetensors"])
def test_meta_assign_holds_the_checkpoint_once(name: str, tasks: Tasks) -> None:
    task = tasks(name)
    found = theory("meta-assign", task)
    assert pools(found) == (task.checkpoint.nbytes, 0)
    assert found.steady.heap_bytes == task.checkpoint.nbytes
    assert {line.item for line in found.bill} == {Item.FLOOR}


@pytest.mark.parametrize("name", ["meta", "safetensors", "safetensors 3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_cast_of_owned_memory_peaks_at_the_worst_moment_of_its_order(name: str, dtype: str, tasks: Tasks) -> None:
    task = tasks(name, dtype=dtype)
    live = highest = task.checkpoint.nbytes
    for tensor in task.checkpoint.tensors:
        live += bytes_of(dtype, tensor.elements)  # before its source goes
        highest = max(highest, live)
        live -= tensor.nbytes
    found = theory("meta-assign", task)
    assert pools(found) == (highest, 0)
    assert found.steady.heap_bytes == task.floor_bytes == live


def test_a_cast_to_a_dtype_of_the_same_size_costs_the_largest_tensor(tasks: Tasks) -> None:
    task = tasks("safetensors", dtype="bfloat16")
    largest = task.checkpoint.largest_tensor
    assert largest is not None
    assert pools(theory("meta-assign", task)) == (task.checkpoint.nbytes + largest.nbytes, 0)


@pytest.mark.parametrize("name", ["meta", "safetensors", "safetensors 3", "teaching", "odd safetensors"])
def test_stream_holds_the_model_and_nothing_else(name: str, tasks: Tasks) -> None:
    task = tasks(name)
    found = theory("stream", task)
    assert pools(found) == (task.floor_bytes, 0)
    assert found.steady.heap_bytes == task.floor_bytes


@pytest.mark.parametrize("threads", [1, 3])
def test_stream_that_casts_holds_the_model_and_a_buffer_for_each_thread(
    threads: int, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.strategies.streaming.default_threads", lambda: threads)
    task = tasks("safetensors", dtype="float32")
    found = theory("stream", task)
    staged = max(tensor.nbytes for tensor in task.checkpoint.tensors)  # none is larger than a chunk
    assert pools(found) == (task.floor_bytes + threads * (staged + 512), 0)  # and a sector's room
    assert found.steady.heap_bytes == task.floor_bytes


@pytest.mark.parametrize("name", ["meta", "safetensors", "safetensors 3", "teaching", "odd pth", "odd safetensors"])
def test_mmap_assign_holds_the_files_pages_and_no_heap(name: str, tasks: Tasks) -> None:
    task = tasks(name)
    found = theory("mmap-assign", task)
    assert pools(found) == (0, task.checkpoint.nbytes)
    assert (found.steady.heap_bytes, found.steady.file_bytes) == (0, task.checkpoint.nbytes)


def test_a_cast_of_one_mapped_file_holds_all_its_pages_until_the_last_tensor(tasks: Tasks) -> None:
    task = tasks("safetensors", dtype="float32")
    found = theory("mmap-assign", task)
    assert pools(found) == (task.floor_bytes, task.checkpoint.nbytes)
    assert found.peak_rss_bytes == task.floor_bytes + task.checkpoint.nbytes
    assert (found.steady.heap_bytes, found.steady.file_bytes) == (task.floor_bytes, 0)


def test_a_cast_of_mapped_shards_holds_the_pages_of_one_shard_at_a_time(tasks: Tasks) -> None:
    task = tasks("safetensors 3", dtype="float32")
    assert pools(theory("mmap-assign", task)) == (task.floor_bytes, max(task.checkpoint.shard_nbytes))


def test_joining_slices_in_owned_memory_costs_the_largest_joined_tensor_at_most(tasks: Tasks) -> None:
    task = tasks("meta 2")
    live = highest = task.checkpoint.nbytes
    for name, pieces in task.pieces.items():
        if task.split_dims[name] is None:
            live -= sum(piece.nbytes for piece in pieces[1:])  # every file has it whole, one is enough
        else:
            whole = sum(piece.nbytes for piece in pieces)
            highest = max(highest, live + whole)
    found = theory("meta-assign", task)
    assert pools(found) == (highest, 0)
    assert found.steady.heap_bytes == task.floor_bytes == live


def test_joining_mapped_slices_copies_what_is_split_and_keeps_the_first_file(tasks: Tasks) -> None:
    task = tasks("meta 2")
    found = theory("mmap-assign", task)
    assert found.peak.heap_bytes == found.steady.heap_bytes == split_bytes(task)
    # The norms are the first file's own pages, which keeps its mapping and all that was touched of it.
    assert found.steady.file_bytes == task.checkpoint.shard_nbytes[0]


def test_naive_on_slices_holds_the_model_and_every_slice_and_the_joined_tensor(tasks: Tasks) -> None:
    task = tasks("meta 2")
    joined = theory("meta-assign", task).peak.heap_bytes
    assert joined is not None
    assert theory("naive", task).peak.heap_bytes == initial_bytes(task) + joined
    assert theory("naive", task).steady.heap_bytes == initial_bytes(task)


@pytest.mark.parametrize("name", ["meta", "safetensors"])
@pytest.mark.parametrize("id_", ["sequential", "direct-device"])
def test_on_the_cpu_it_makes_no_difference_how_a_random_model_is_filled(id_: str, name: str, tasks: Tasks) -> None:
    assert pools(theory(id_, tasks(name))) == pools(theory("naive", tasks(name)))


def test_naive_cast_peaks_like_naive_and_ends_at_the_floor(tasks: Tasks) -> None:
    task = tasks("meta")
    found = theory("naive-cast", task)
    assert pools(found) == pools(theory("naive", task))
    assert found.steady.heap_bytes == task.floor_bytes == task.checkpoint.nbytes


def test_a_cast_at_the_end_holds_a_tensor_twice(tasks: Tasks) -> None:
    task = tasks("meta", dtype="float64", init_dtype="float16")  # grows so much that it ends higher than it loads
    found = theory("naive-cast", task)
    largest = max(tensor.elements for tensor in task.checkpoint.tensors)
    assert found.steady.heap_bytes == task.floor_bytes
    assert task.floor_bytes < (found.peak.heap_bytes or 0) <= task.floor_bytes + 2 * largest


@pytest.mark.parametrize("id_", ["init-module", "skip-init"])
@pytest.mark.parametrize(("name", "file"), [("meta", 0), ("safetensors 3", 1)])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_a_model_in_its_final_dtype_and_the_checkpoint_are_there_at_once(
    id_: str, name: str, file: int, dtype: str | None, tasks: Tasks
) -> None:
    task = tasks(name, dtype=dtype)
    t, c = task.floor_bytes, task.checkpoint.nbytes
    found = theory(id_, task)
    assert pools(found) == ((t, c) if file else (t + c, 0))
    assert found.steady.heap_bytes == t


def test_memory_that_is_only_reserved_takes_nothing_while_the_checkpoint_is_read(tasks: Tasks) -> None:
    steps = list(NATIVE["skip-init"].ledger(tasks("meta")))
    read = max(index for index, step in enumerate(steps) if step.phase == "read")
    assert sum(step.delta_bytes for step in steps[: read + 1]) == tasks("meta").checkpoint.nbytes


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_lazy_holds_the_model_and_the_pages_of_a_single_file(dtype: str | None, tasks: Tasks) -> None:
    for name in ("meta", "safetensors"):
        task = tasks(name, dtype=dtype)
        found = theory("lazy", task)
        assert pools(found) == (task.floor_bytes, task.checkpoint.nbytes)
        assert (found.steady.heap_bytes, found.steady.file_bytes) == (task.floor_bytes, 0)


def test_lazy_holds_the_pages_of_one_shard_at_a_time(tasks: Tasks) -> None:
    task = tasks("safetensors 3")
    assert pools(theory("lazy", task)) == (task.floor_bytes, max(task.checkpoint.shard_nbytes))


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_lazy_on_slices_makes_each_whole_tensor_once_and_twice_for_a_cast(dtype: str | None, tasks: Tasks) -> None:
    task = tasks("meta 2", dtype=dtype)
    found = theory("lazy", task)
    joined = max(sum(piece.nbytes for piece in pieces) for pieces in task.pieces.values())
    assert found.steady.heap_bytes == task.floor_bytes
    assert 0 <= (found.peak.heap_bytes or 0) - task.floor_bytes <= (joined if dtype else 0)


def test_lazy_counts_tied_weights_once_in_every_dtype(tasks: Tasks) -> None:
    for dtype in (None, "bfloat16"):
        task = tasks("odd pth", dtype=dtype)
        made = [step.tensor for step in NATIVE["lazy"].ledger(task) if step.operation is Operation.ASSIGN]
        assert "first.weight" in made
        assert "tied.weight" not in made
        assert theory("lazy", task).steady.heap_bytes == task.floor_bytes


def per_tensor(task: LoadTask) -> LoadTask:
    """The same tensors, each in a file of its own."""
    tensors = tuple(
        tensor._replace(storage=tensor.storage._replace(file=index, key=f"{tensor.name}/data/0"))
        for index, tensor in enumerate(task.checkpoint.tensors)
    )
    files = tuple(
        replace(task.checkpoint.files[0], name=f"{tensor.name}.pt", path=task.checkpoint.path / f"{tensor.name}.pt")
        for tensor in tensors
    )
    return replace(task, checkpoint=replace(task.checkpoint, layout="per-tensor", files=files, tensors=tensors))


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_per_tensor_files_holds_the_model_as_it_fills_and_one_tensor(dtype: str | None, tasks: Tasks) -> None:
    task = per_tensor(tasks("meta", dtype=dtype))
    largest = max(tensor.nbytes for tensor in task.checkpoint.tensors)
    found = theory("per-tensor-files", task)
    assert task.floor_bytes < (found.peak.heap_bytes or 0) <= task.floor_bytes + largest
    assert found.steady.heap_bytes == task.floor_bytes
    on_device = theory("per-tensor-files", per_tensor(tasks("meta", device="cuda")))
    assert on_device.peak.heap_bytes == largest


def test_memory_that_several_tensors_share_is_counted_once(tasks: Tasks) -> None:
    task = tasks("odd pth")
    names = [tensor.name for tensor in task.checkpoint.tensors]
    read = [step for step in NATIVE["meta-assign"].ledger(task) if step.operation is Operation.MATERIALISE]
    assert {"first.weight", "tied.weight"} <= set(names)
    assert sum(step.nbytes for step in read) == task.checkpoint.nbytes
    assert sum(step.tensor in ("first.weight", "tied.weight") for step in read) == 1
    # and in a model that is built, the tied parameter takes nothing either
    built = [step.tensor for step in NATIVE["naive"].ledger(task) if step.phase == "build"]
    assert "tied.weight" not in built


def test_a_cast_unties(tasks: Tasks) -> None:
    task = tasks("odd pth", dtype="bfloat16")
    cast = [step for step in NATIVE["meta-assign"].ledger(task) if step.phase == "cast" and step.delta_bytes > 0]
    tied = [step.nbytes for step in cast if step.tensor in ("first.weight", "tied.weight")]
    assert tied == [40 * 8 * 2] * 2
    whole = sum(
        bytes_of(task.target_dtype(parameter), parameter.elements) for parameter in task.architecture.parameters
    )
    assert theory("meta-assign", task).steady.heap_bytes == whole


def test_tied_sources_of_a_cast_go_with_the_last_of_them_in_the_state_dicts_order(tasks: Tasks) -> None:
    """The recipe casts in the order of the state dict, which is that of the pickle and not that of the bytes."""
    task = tasks("odd pth", dtype="bfloat16")
    steps = [
        (step.operation, step.tensor)
        for step in NATIVE["meta-assign"].ledger(task)
        if step.phase == "cast" and step.nbytes
    ]
    tied = steps.index((Operation.RELEASE, "first.weight"))
    between = {tensor for operation, tensor in steps[:tied] if operation is Operation.MATERIALISE}
    assert {"scalar", "a.b.c"} <= between


def test_tensors_without_elements_or_dimensions_cost_what_they_have(tasks: Tasks) -> None:
    for name in ("odd pth", "odd safetensors"):
        for strategy in (strategy for strategy in NATIVE.values() if not strategy.changes):
            sums = {
                step.tensor: step.nbytes for step in strategy.ledger(tasks(name)) if step.tensor in ("empty", "scalar")
            }
            assert sums.get("empty", 0) == 0
            assert sums["scalar"] == 4


@pytest.mark.parametrize(("id_", "name", "options"), CELLS, ids=str)
def test_every_cell_of_the_matrix_balances(id_: str, name: str, options: dict[str, str], tasks: Tasks) -> None:
    task = tasks(name, **options)
    found = theory(id_, task)
    steps = list(NATIVE[id_].steps(task))
    assert evaluate(steps, found.floor_bytes) == found, "rounds that are gone through once come to something else"
    # what is released was there, pool by pool and step by step
    live = dict.fromkeys(Pool, 0)
    for step in steps:
        live[step.pool] += step.delta_bytes
        assert live[step.pool] >= 0
    assert sum(line.nbytes for line in found.bill) == found.peak_rss_bytes
    steady = (found.steady.heap_bytes or 0) + (found.steady.file_bytes or 0)
    assert steady <= found.peak_rss_bytes
    assert found.floor_bytes == NATIVE[id_].floor_bytes(task) <= max(steady, found.peak_rss_bytes)
    added = {parameter.name for parameter in NATIVE[id_].adds(task)}
    untied = {parameter.name for parameter in task.architecture.parameters if parameter.tied_to is None}
    declared = {parameter.name for parameter in task.architecture.parameters}
    named = {step.tensor for step in steps if not step.tensor.startswith("staging of reader ")}
    assert untied | added <= named <= declared | added
    assert all(bool(step.item) == (step.pool is not Pool.NONE) for step in steps)
