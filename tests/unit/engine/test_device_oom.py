"""Out of memory on a device: what torch's versions say, and what is made of it."""

from __future__ import annotations

import pytest

from meminspect.engine.device_oom import DeviceShortage, shortage_of

GIB, MIB = 1 << 30, 1 << 20

# As c10 writes them, with the figures of one situation.
TEXTS = {
    "1.13": (
        "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.00 GiB total capacity; 12.50 GiB already allocated; "
        "1.25 GiB free; 13.00 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting "
        "max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
    ),
    "2.1": (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacty of 15.00 GiB of which 1.25 GiB is "
        "free. Process 4711 has 13.75 GiB memory in use. Of the allocated memory 12.50 GiB is allocated by "
        "PyTorch, and 512.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large "
        "try setting max_split_size_mb to avoid fragmentation."
    ),
    "2.13": (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which 1.25 GiB is "
        "free. Including non-PyTorch memory, this process has 13.75 GiB memory in use. Of the allocated memory "
        "12.50 GiB is allocated by PyTorch, with 64.00 MiB allocated in private pools (e.g., CUDA Graphs), and "
        "512.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    ),
}


@pytest.mark.parametrize("version", TEXTS)
def test_given_what_a_version_of_torch_says_then_all_of_its_figures_are_read(version: str) -> None:
    short = shortage_of({"type": "OutOfMemoryError", "message": TEXTS[version]}, None)

    assert short is not None
    assert (short.requested_bytes, short.free_bytes, short.allocated_bytes) == (2 * GIB, 5 * GIB // 4, 25 * GIB // 2)
    assert short.unused_bytes == 512 * MIB
    assert short.total_bytes == 15 * GIB
    assert short.process_bytes == (55 * GIB // 4 if version == "2.13" else None)
    assert short.fragmented is False


@pytest.mark.parametrize(
    ("message", "requested", "total"),
    [
        ("HIP out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB of which 1.00 MiB is "
         "free.", 20 * MIB, 2 * GIB),
        ("XPU out of memory. Tried to allocate 512 bytes. GPU 0 has a total capacity of 2.00 GiB.", 512, 2 * GIB),
        ("MPS backend out of memory (MPS allocated: 1.50 GB, other allocations: 384.00 KB, max allowed: 2.00 GB). "
         "Tried to allocate 20.00 MB on private pool.", 20 * MIB, 2 * GIB),
    ],
)  # fmt: skip
def test_given_another_backend_then_it_is_read_likewise(message: str, requested: int, total: int) -> None:
    short = shortage_of({"type": "RuntimeError", "message": message}, None)

    assert short is not None
    assert (short.requested_bytes, short.total_bytes) == (requested, total)


def test_given_the_host_s_lack_of_memory_then_it_is_not_the_device_s() -> None:
    message = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: you tried to allocate 8 bytes."

    assert shortage_of({"type": "RuntimeError", "message": message}, None) is None


def test_given_the_allocator_s_own_books_then_they_count_more_than_the_sentence() -> None:
    books = {
        "free_bytes": 7,
        "total_bytes": None,
        "allocated_bytes": 10,
        "reserved_bytes": 15,
        "largest_unused_bytes": 4,
    }

    short = shortage_of({"type": "OutOfMemoryError", "message": TEXTS["2.13"]}, books)

    assert short is not None
    assert (short.free_bytes, short.total_bytes, short.unused_bytes, short.largest_unused_bytes) == (7, 15 * GIB, 5, 4)


def test_given_a_request_that_all_pieces_together_would_hold_then_it_is_fragmentation_in_words_too() -> None:
    short = DeviceShortage(2 * GIB, GIB, 15 * GIB, 9 * GIB, 3 * GIB, GIB, None)

    assert short.fragmented
    assert short.words == (
        "the device is out of memory: 2.00 GiB asked for, 1.00 GiB of 15.00 GiB free, 3.00 GiB reserved by torch and "
        "unused, which is fragmented: in pieces of 1.00 GiB at most"
    )
    assert short.document()["fragmented"] is True


def test_given_nothing_but_the_fact_then_the_sentence_is_short() -> None:
    short = shortage_of({"type": "OutOfMemoryError", "message": "CUDA out of memory."}, {})

    assert short is not None
    assert (short.words, short.fragmented) == ("the device is out of memory", None)
