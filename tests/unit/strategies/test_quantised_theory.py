"""The theories of models that are not the checkpoint's own, in closed form: Q + t, W + C, T and adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from strategy_tasks import initial_bytes

from meminspect.dtypes import bytes_of
from meminspect.staging import default_threads
from meminspect.strategies import NATIVE, QUANTISATIONS
from meminspect.strategies.adapters import RANK
from meminspect.theory.ledger import Item

if TYPE_CHECKING:
    from strategy_tasks import Tasks

    from meminspect.architectures import Parameter
    from meminspect.strategies import LoadTask
    from meminspect.theory.ledger import Theory

KNOWN = ["meta", "meta 2", "safetensors", "safetensors 3", "teaching", "gpt2"]


def theory(strategy: str, task: LoadTask) -> Theory:
    return NATIVE[strategy].theory(task)


def layers(task: LoadTask) -> list[Parameter]:
    return [one for one in task.architecture.parameters if one.linear in ("attention", "feed-forward")]


def outputs(parameter: Parameter) -> int:
    return parameter.shape[1 if parameter.transposed else 0]


def quantised_bytes(task: LoadTask) -> int:
    """What the linear layers take: a byte a value and a scale a row, or half a byte and a scale for each 64."""
    if task.options.quantisation == "int8":
        return sum(one.elements + 4 * outputs(one) for one in layers(task))
    return sum(one.elements // 2 + one.elements // 64 * 4 for one in layers(task))


def kept_bytes(task: LoadTask, dtype: str = "float16") -> int:
    return sum(bytes_of(dtype, one.elements) for one in task.architecture.parameters if one not in layers(task))


def working_bytes(task: LoadTask) -> int:
    """At most what quantising 256 rows takes beside the result: a copy in float32, and codes of nf4."""
    copies = 2 if task.options.quantisation == "nf4" else 1
    return max(copies * 4 * one.elements * min(256, outputs(one)) // outputs(one) for one in layers(task))


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("name", KNOWN)
def test_the_floor_of_a_quantised_model_is_q_and_what_it_settles_at(name: str, quantisation: str, tasks: Tasks) -> None:
    task = tasks(name, quantisation=quantisation)
    q = quantised_bytes(task) + kept_bytes(task)
    found = theory("lazy-quantize", task)
    assert found.floor_bytes == found.steady.heap_bytes == q
    assert q < task.floor_bytes
    assert theory("quantize-after", task).floor_bytes == q
    assert theory("quantize-after", task).steady.heap_bytes == quantised_bytes(task) + kept_bytes(task, "float32")


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("name", ["safetensors", "safetensors 3", "gpt2", "teaching"])
def test_lazy_quantize_holds_q_and_a_tensor_where_it_reads_by_position(
    name: str, quantisation: str, tasks: Tasks
) -> None:
    task = tasks(name, quantisation=quantisation)
    largest = max(task.pieces[one.name][0].nbytes for one in layers(task))
    found = theory("lazy-quantize", task)
    assert found.floor_bytes < (found.peak.heap_bytes or 0) <= found.floor_bytes + largest + working_bytes(task)
    assert found.peak.file_bytes == 0


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_lazy_quantize_of_a_pickle_holds_q_and_the_pages_of_the_file(quantisation: str, tasks: Tasks) -> None:
    task = tasks("meta", quantisation=quantisation)
    found = theory("lazy-quantize", task)
    assert found.floor_bytes <= (found.peak.heap_bytes or 0) <= found.floor_bytes + working_bytes(task)
    assert found.peak.file_bytes == task.checkpoint.nbytes
    assert found.steady.file_bytes == 0


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("name", ["meta", "safetensors 3", "teaching"])
def test_stream_quantize_holds_q_and_staging_for_each_thread(name: str, quantisation: str, tasks: Tasks) -> None:
    task = tasks(name, quantisation=quantisation)
    most_read = min(8 << 20, max(task.pieces[one.name][0].nbytes for one in layers(task)))
    row = max(one.elements // outputs(one) for one in layers(task))
    worked_on = max(row, 1 << 18) * {"int8": 5, "nf4": 14}[quantisation] + 512  # values, their floats, bins and bounds
    found = theory("stream-quantize", task)
    assert found.floor_bytes == found.steady.heap_bytes == quantised_bytes(task) + kept_bytes(task)
    staging = (found.peak.heap_bytes or 0) - found.floor_bytes
    assert most_read < staging <= default_threads() * (most_read + 512 + worked_on)
    assert found.peak.file_bytes == 0


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("init_dtype", ["float32", "float16"])
def test_quantize_after_needs_the_full_model_and_the_checkpoint(
    init_dtype: str, quantisation: str, tasks: Tasks
) -> None:
    task = tasks("meta", quantisation=quantisation, init_dtype=init_dtype)
    w, c = initial_bytes(task), task.checkpoint.nbytes
    found = theory("quantize-after", task)
    assert (found.peak.heap_bytes, found.peak.file_bytes) == (w + c, 0)
    lines = {line.item: line.nbytes for line in found.bill}
    full = sum(bytes_of(init_dtype, one.elements) for one in layers(task))
    assert lines[Item.FLOOR] == kept_bytes(task)
    assert lines[Item.QUANTISED] == quantised_bytes(task)
    assert lines[Item.FLOOR] + lines[Item.QUANTISED] == found.floor_bytes
    assert lines[Item.DETOUR] == full - quantised_bytes(task)
    assert lines[Item.DUPLICATE] == c
    assert lines.get(Item.UPCAST, 0) == kept_bytes(task, init_dtype) - kept_bytes(task)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_adapters_cost_two_thin_matrices_in_float32_for_each_projection_of_an_attention(
    name: str, dtype: str | None, tasks: Tasks
) -> None:
    task = tasks(name, dtype=dtype)
    lora = sum(4 * RANK * sum(one.shape) for one in layers(task) if one.linear == "attention")
    base, found = theory("lazy", task), theory("adapters", task)
    assert found.floor_bytes == base.floor_bytes + lora
    assert found.steady.heap_bytes == (base.steady.heap_bytes or 0) + lora
    assert found.peak.file_bytes == base.peak.file_bytes


def test_a_model_that_nobody_knows_is_neither_quantised_nor_adapted(tasks: Tasks) -> None:
    for strategy in (strategy for strategy in NATIVE.values() if strategy.changes):
        assert "nobody knows" in (strategy.why_not(tasks("odd safetensors")) or "")


def test_what_cannot_be_cut_into_blocks_is_not_quantised_to_four_bits(tasks: Tasks) -> None:
    task = tasks("gpt2", quantisation="nf4")
    first = layers(task)[0]
    odd = [one._replace(shape=(3, 5)) if one == first else one for one in task.architecture.parameters]
    task = replace(task, architecture=replace(task.architecture, parameters=tuple(odd)))
    assert NATIVE["lazy-quantize"].why_not(task) == f"nf4 takes 64 values at a time, and {first.name} has 15"
    assert "use one of int8, nf4" in (NATIVE["lazy"].why_not(tasks("gpt2", quantisation="int3")) or "")
