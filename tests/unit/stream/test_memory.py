from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from meminspect.stream.memory import Block, Memory

MIB = 1 << 20


def resident_bytes(address: int, nbytes: int) -> int:
    """Of the pages that are wholly in a range, whoever has it, by the kernel's page map (`man 5 proc_pid_pagemap`)."""
    first, last = -(-address // mmap.PAGESIZE), (address + nbytes) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pages:
        pages.seek(8 * first)
        entries = pages.read(8 * (last - first))
    return sum(entry >> 63 for entry in memoryview(entries).cast("Q")) * mmap.PAGESIZE


def filled(memory: Memory, nbytes: int) -> tuple[Block, torch.Tensor]:
    block = memory.block(nbytes)
    return block, block.tensor(torch.uint8, 0, nbytes).fill_(7)


def test_blocks_lie_side_by_side_and_begin_where_they_were_asked_to() -> None:
    memory = Memory(3 * MIB, 3)
    tensors = [memory.block(MIB, residue).tensor(torch.uint8, 0, MIB) for residue in (0, 136, 511)]
    addresses = [tensor.data_ptr() for tensor in tensors]
    assert [address % 512 for address in addresses] == [0, 136, 511]
    assert 0 <= addresses[1] - addresses[0] - MIB < 512
    assert 0 <= addresses[2] - addresses[1] - MIB < 1024
    assert all(not tensor.any() for tensor in tensors)


def test_more_than_was_foretold_is_had_elsewhere() -> None:
    memory = Memory(MIB)
    tensors = [memory.block(MIB).tensor(torch.uint8, 0, MIB) for _ in range(4)]
    assert len({tensor.data_ptr() for tensor in tensors}) == 4


def test_what_has_been_written_to_is_resident_and_nothing_else() -> None:
    memory = Memory(16 * MIB, 2)
    untouched = memory.block(4 * MIB).tensor(torch.uint8, 0, 4 * MIB)
    _, tensor = filled(memory, 8 * MIB)
    assert resident_bytes(tensor.data_ptr(), 8 * MIB) >= 8 * MIB - 2 * mmap.PAGESIZE
    assert resident_bytes(untouched.data_ptr(), 4 * MIB) <= 2 * MIB  # a huge page that both are in


def test_the_last_tensor_of_a_block_gives_its_memory_back_while_its_neighbours_live() -> None:
    memory = Memory(30 * MIB, 3)
    (_, first), (block, tensor), (_, last) = (filled(memory, 10 * MIB) for _ in range(3))
    address = tensor.data_ptr()
    one, other = block.tensor(torch.float16, 0, 8), block.tensor(torch.int8, 64, 8)[2:4]

    del block, tensor, one
    assert list(other) == [7, 7]
    assert resident_bytes(address, 10 * MIB) >= 10 * MIB - 2 * mmap.PAGESIZE
    del other

    assert resident_bytes(address, 10 * MIB) == 0
    assert bool((first == 7).all()), "a neighbour's bytes went with it"
    assert bool((last == 7).all()), "a neighbour's bytes went with it"


def test_more_than_the_system_promises_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=r"no .* bytes of memory"):
        Memory(1 << 60).block(1 << 60)
