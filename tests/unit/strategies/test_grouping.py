"""Checkpoints whose tensors come over and over: theories that name few of them, and are the same."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from header_checkpoints import checkpoint_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meminspect.checkpoint.model import Checkpoint, CheckpointFile, Chunk, Storage, StoredTensor
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.grouping import grouped
from meminspect.strategies.task import task_for
from meminspect.theory.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from header_checkpoints import Header

    from meminspect.strategies import LoadTask


def spread(headers: Sequence[Header], *, files: int = 1, layout: str = "safetensors-sharded") -> Checkpoint:
    """A checkpoint with its tensors evenly over its files."""
    share = max(1, -(-len(headers) // files))
    return checkpoint_of([headers[file * share : (file + 1) * share] for file in range(files)], layout)


# What lies around the allocator's thresholds, and what costs next to nothing.
ELEMENTS = st.sampled_from([0, 1, 300, 200_000, 262_144, 600_000, 5_000_000])
DTYPES = st.sampled_from(["float16", "float32", "int64"])


@st.composite
def headers(draw: st.DrawFn) -> list[Header]:
    """Layers of equal blocks, odd tensors among them, in one of the orders that writers put tensors in."""
    found: list[Header] = []
    for section in range(draw(st.integers(1, 3))):
        block = draw(st.lists(st.tuples(DTYPES, ELEMENTS), min_size=1, max_size=4))
        for layer, (index, (dtype, elements)) in itertools.product(
            range(draw(st.integers(1, 9))), enumerate(block)
        ):  # fmt: skip
            found.append((f"{'abc'[section]}.{layer}.{'wxyz'[index]}", dtype, (elements,)))
        if draw(st.booleans()):
            found.append((f"odd{section}", draw(DTYPES), (draw(ELEMENTS),)))
    order = draw(st.sampled_from(["made", "dtype", "name"]))
    if order == "dtype":
        return sorted(found, key=lambda header: header[1])
    return sorted(found) if order == "name" else found


OPTIONS = st.builds(
    LoadOptions,
    device=st.sampled_from(["cpu", "cuda"]),
    dtype=st.sampled_from([None, "bfloat16", "float32"]),
    init_dtype=st.sampled_from(["float32", "float16"]),
    read_to=st.sampled_from(["device", "host"]),
)


# Runs that keep different layers: without those that are gone, a.3 would be met after a.5.
SHIFTED: list[Header] = [
    *((f"a.{layer}.w", "float16", (0,)) for layer in range(6)),
    *((f"a.{layer}.{name}", "float32", (size,)) for layer in range(6) for name, size in (("x", 0), ("y", 300))),
    *((f"a.{layer}.z", "int64", (1,)) for layer in range(6)),
]


@settings(max_examples=60, deadline=None)
@example(SHIFTED, 3, "safetensors-sharded", LoadOptions(device="cuda", dtype="bfloat16"))
@given(headers(), st.integers(1, 3), st.sampled_from(["safetensors-sharded", "pth"]), OPTIONS)
def test_a_theory_of_groups_is_the_theory_of_all(
    tensors: list[Header], files: int, layout: str, options: LoadOptions
) -> None:
    task = task_for(spread(tensors, files=files, layout=layout), options)
    few = grouped(task)
    for strategy in NATIVE.values():
        if strategy.why_not(task) is None:
            alone = evaluate(strategy.ledger(task), task.floor_bytes)
            assert evaluate(strategy.ledger(few.task), task.floor_bytes, few.copies) == alone


def named(task: LoadTask) -> int:
    """How many tensors remain of a task."""
    return len(grouped(task).task.checkpoint.tensors)


def test_of_equal_blocks_three_remain() -> None:
    layers = [(f"layers.{n}.{name}", "float16", (64,)) for n in range(100) for name in ("up", "down")]
    few = grouped(task_for(spread([("first", "float16", (9,)), *layers]), LoadOptions()))

    assert [tensor.name for tensor in few.task.checkpoint.tensors] == [
        "first", "layers.0.up", "layers.0.down", "layers.1.up", "layers.1.down", "layers.99.up", "layers.99.down",
    ]  # fmt: skip
    assert few.copies == {"layers.1.up": 98, "layers.1.down": 98}


@pytest.mark.parametrize("before", [0, 7500, 7700, 8191])
def test_three_remain_wherever_the_blocks_begin(before: int) -> None:
    """Runs are looked for in a window at a time; what stands before and behind is like no other."""
    block = [(f"b.{n}.{index}.w", "float16", (1_000_000 + index,)) for n in range(6) for index in range(128)]
    odd = [(f"{n}.w", "float16", (1 + n,)) for n in range(before + 100)]
    task = task_for(spread([*odd[:before], *block, *odd[before:]]), LoadOptions())
    assert named(task) == before + 100 + 3 * 128


def test_a_line_break_in_one_name_leaves_the_others_grouped() -> None:
    layers = [(f"layers.{n}.up", "float16", (64,)) for n in range(100)]
    assert named(task_for(spread([("first\nline", "float16", (9,)), *layers]), LoadOptions())) == 4


def test_the_order_of_bytes_may_take_the_blocks_apart() -> None:
    """Safetensors writes wide types first: all norms, then all weights, where the model has them in turn."""
    norms = [(f"layers.{n}.norm", "float32", (64,)) for n in range(50)]
    weights = [(f"layers.{n}.weight", "float16", (4096,)) for n in range(50)]
    assert named(task_for(spread([*norms, *weights]), LoadOptions())) == 6


def test_blocks_that_another_order_turns_round_are_no_group() -> None:
    norms = [(f"layers.{n}.norm", "float32", (64,)) for n in range(10)]
    weights = [(f"layers.{n}.weight", "float16", (4096,)) for n in reversed(range(10))]
    assert named(task_for(spread([*norms, *weights]), LoadOptions())) == 20


def test_tensors_that_differ_in_more_than_numbers_are_no_group() -> None:
    other_names = [(f"{'abcdefghij'[n]}.weight", "float16", (64,)) for n in range(10)]
    other_sizes = [(f"{n}.weight", "float16", (64 + n,)) for n in range(10)]
    for tensors in (other_names, other_sizes):
        assert named(task_for(spread(tensors), LoadOptions())) == 10


def test_tensors_that_share_memory_are_no_group() -> None:
    shared = Storage(0, "shared", 0, 128)
    tensors = tuple(StoredTensor(f"{n}.weight", "float16", (64,), shared) for n in range(10))
    files = (CheckpointFile("0", Path("/nowhere/0"), 128),)
    assert named(task_for(Checkpoint(Path("/nowhere"), "pth", files, tensors), LoadOptions())) == 10


def test_a_hundred_thousand_tensors_cost_a_theory_what_a_few_do() -> None:
    experts = [(f"layers.{n // 256}.experts.{n}.{name}", "float16", (4096,)) for n in range(25_000) for name in "abcd"]
    task = task_for(spread(experts), LoadOptions())
    assert task.floor_bytes == 100_000 * 2 * 4096  # which groups them
    started_s = time.process_time()
    for strategy in NATIVE.values():
        strategy.theory(task)
    assert time.process_time() - started_s < 3


def test_tensors_in_chunks_are_named_each_since_their_chunks_may_differ() -> None:
    task = task_for(spread([(f"layers.{n}.up", "float16", (64,)) for n in range(9)]), LoadOptions())
    chunked = tuple(tensor._replace(chunk=Chunk((64,), (0,))) for tensor in task.checkpoint.tensors)
    assert named(task) < 9

    assert named(replace(task, checkpoint=replace(task.checkpoint, tensors=chunked))) == 9
