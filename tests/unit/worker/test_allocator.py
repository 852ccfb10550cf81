from __future__ import annotations

import ctypes
import os
import sys

import pytest

from meminspect.sampling.procfs import ProcessMemory
from meminspect.worker import allocator

MIB = 1 << 20
BLOCK_BYTES, BLOCKS = 64 << 10, 1024  # below the threshold from which on a block is a mapping of its own


def test_what_is_in_use_is_all_that_c_and_python_have_taken_and_asking_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = allocator.used_bytes()
    if before is None:
        pytest.skip("not glibc 2.33, or not Python's own allocator")
    smallest_bytes = 16  # of a block of Python's
    assert before > sys.getallocatedblocks() * smallest_bytes
    block = ctypes.create_string_buffer(16 * MIB)
    grown = (allocator.used_bytes() or 0) - before
    os.write(2, b"said later")
    assert abs(grown - len(block)) < MIB
    assert capfd.readouterr().err == "said later"


def test_given_blocks_with_holes_between_them_then_the_allocator_says_what_it_keeps_and_a_trim_gives_it_back() -> None:
    if allocator.free_bytes() is None:
        pytest.skip("not glibc 2.33")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    before = allocator.free_bytes() or 0
    with ProcessMemory("self") as memory:
        for block in blocks[::2]:
            libc.free(block)
        kept = (allocator.free_bytes() or 0) - before
        full_bytes = memory.reading().heap_bytes
        trimmed = allocator.trim()
        given_back = full_bytes - memory.reading().heap_bytes
    for block in blocks[1::2]:
        libc.free(block)
    assert abs(kept - BLOCK_BYTES * BLOCKS // 2) < MIB
    assert trimmed
    assert given_back > BLOCK_BYTES * BLOCKS // 4
