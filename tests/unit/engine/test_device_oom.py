"""Out of memory on a device: what torch's versions say, and what is made of it."""

from __future__ import annotations

import pytest

from meminspect.engine.device_oom import DeviceShortage, shortage_of
from meminspect.worker.failure import failure_of

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


# The sentences as torch writes them (and where they have been seen), with figures of our own.
TOTAL = "GPU 0 has a total capacity of"
REPORTED = {
    # torch 2.0 to 2.2: huggingface's page on AudioLDM 2
    "CUDA, 'capacty'": (
        "CUDA out of memory. Tried to allocate 1.75 GiB. GPU 0 has a total capacty of 14.50 GiB of which 1.50 GiB is "
        "free. Process 4711 has 13.00 GiB memory in use. Of the allocated memory 10.25 GiB is allocated by PyTorch, "
        "and 2.25 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and "
        "PYTORCH_CUDA_ALLOC_CONF",
        {"requested": 1.75, "free": 1.5, "total": 14.5, "allocated": 10.25, "unused": 2.25},
    ),
    # torch 2.6: Comfy-Org/ComfyUI#9529
    "HIP": (
        f"HIP out of memory. Tried to allocate 512.00 MiB. {TOTAL} 15.75 GiB of which 7.25 GiB is free. Of the "
        "allocated memory 8.00 GiB is allocated by PyTorch, and 320.00 MiB is reserved by PyTorch but unallocated. If "
        "reserved but unallocated memory is large try setting PYTORCH_HIP_ALLOC_CONF=expandable_segments:True to avoid "
        "fragmentation.  See documentation for Memory Management  "
        "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
        {"requested": 0.5, "free": 7.25, "total": 15.75, "allocated": 8, "unused": 320 / 1024},
    ),
    # torch 2.9: ROCm/TheRock#2118
    "HIP, with a share of the device": (
        f"HIP out of memory. Tried to allocate 2.00 MiB. {TOTAL} 255.00 GiB of which 244.50 GiB is free. 1.25 GiB "
        "allowed; Of the allocated memory 1016.00 MiB is allocated by PyTorch, with 16.00 MiB allocated in private "
        "pools (e.g., HIP Graphs), and 56.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
        "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.",
        {"requested": 2 / 1024, "free": 244.5, "total": 255, "allowed": 1.25, "allocated": 1016 / 1024,
         "unused": 56 / 1024},
    ),
    # Intel's extension for torch: Comfy-Org/ComfyUI#8767
    "XPU, before torch had it": (
        "XPU out of memory. Tried to allocate 5.25 GiB (GPU 0; 15.00 GiB total capacity; 13.25 GiB already allocated; "
        "13.75 GiB reserved in total by PyTorch)",
        {"requested": 5.25, "total": 15, "allocated": 13.25, "unused": 0.5},
    ),
    # as wrapped by other programs
    "XPU, short": (
        f"XPU out of memory. Tried to allocate 59.50 GiB. {TOTAL} 28.50 GiB of which 12.00 GiB is free.",
        {"requested": 59.5, "free": 12, "total": 28.5},
    ),
    # torch 2.10: intel/torch-xpu-ops#2392
    "XPU": (
        f"XPU out of memory. Tried to allocate 8.00 GiB. {TOTAL} 16.50 GiB of which 16.50 GiB is free. 8.25 GiB "
        "allowed; Of the allocated memory 0 bytes is allocated by PyTorch, and 0 bytes is reserved by PyTorch but "
        "unallocated. Please use `empty_cache` to release all unoccupied cached memory.",
        {"requested": 8, "free": 16.5, "total": 16.5, "allowed": 8.25, "allocated": 0, "unused": 0},
    ),
    # torch 2.1 to 2.6: lllyasviel/Fooocus#1139
    "MPS": (
        "MPS backend out of memory (MPS allocated: 8.75 GB, other allocations: 172.00 MB, max allowed: 9.00 GB). Tried "
        "to allocate 8.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for "
        "memory allocations (may cause system failure).",
        {"requested": 8 / 1024, "allowed": 9},
    ),
    # torch 2.7 and later: Comfy-Org/ComfyUI#7440
    "MPS, in binary units by name": (
        "MPS backend out of memory (MPS allocated: 9.50 GiB, other allocations: 17.25 GiB, max allowed: 27.00 GiB). "
        "Tried to allocate 288.00 MiB on shared pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit "
        "for memory allocations (may cause system failure).",
        {"requested": 288 / 1024, "allowed": 27},
    ),
    # c10/cuda/CUDAMallocAsyncAllocator.cpp
    "CUDA's own allocator": (
        "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 6.00 GiB\n"
        "Requested               : 2.00 GiB\nDevice limit            : 8.00 GiB\nFree (according to CUDA): 1.00 GiB\n"
        "PyTorch limit (set by user-supplied memory fraction)\n                        : 7.00 GiB",
        {"requested": 2, "free": 1, "total": 8, "allowed": 7, "allocated": 6},
    ),
    # where the driver itself is asked, as for page-locked memory and a context
    "CUDA's driver": (
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
        "stacktrace below might be incorrect.", {},
    ),
    # torch 2.10: open-edge-platform/physical-ai-studio#440
    "XPU's driver": ("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_given_what_has_been_reported_then_it_is_the_device_s_and_all_of_its_figures_are_read(name: str) -> None:
    message, figures = REPORTED[name]

    failure = failure_of(RuntimeError(message) if "on device" not in message else OutOfMemoryError(message))
    short = shortage_of(failure, None)

    assert short is not None
    expected = {f"{figure}_bytes": gib for figure, gib in figures.items()}
    found = {key: value / GIB for key, value in short._asdict().items() if value is not None}
    assert found == pytest.approx(expected, abs=1e-6)


def test_given_a_process_that_may_not_have_what_is_free_then_the_words_say_so() -> None:
    short = shortage_of({"message": REPORTED["XPU"][0]}, None)

    assert short is not None
    assert "16.50 GiB of 16.50 GiB free, 8.25 GiB allowed to this process" in short.words


def test_given_the_host_s_lack_of_memory_then_it_is_not_the_device_s() -> None:
    message = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: you tried to allocate 8 bytes."

    assert shortage_of({"type": "RuntimeError", "message": message}, None) is None


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


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
    short = DeviceShortage(2 * GIB, GIB, 15 * GIB, None, 9 * GIB, 3 * GIB, GIB, None)

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
