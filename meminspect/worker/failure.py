"""What the code that a worker runs has raised, as a report."""

from __future__ import annotations

from typing import Final

__all__ = ["failure_of"]

_NO_MEMORY: Final = (
    "DefaultCPUAllocator", "Cannot allocate memory", "MPS backend out of memory", "XPU out of memory",
    "CUDA error: out of memory", "HIP error: out of memory", "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
)  # fmt: skip


def failure_of(error: BaseException) -> dict[str, str]:
    """Kind, type and message of an exception; the kind tells a lack of memory from all else."""
    text = str(error)
    # torch's CPU allocator raises a RuntimeError (c10/core/impl/alloc_cpu.cpp), a device's an OutOfMemoryError; Metal's
    # and, what no allocator of torch's was asked for, a device's driver a RuntimeError.
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    memory = memory or any(words in text for words in _NO_MEMORY)
    return {"kind": "out_of_memory" if memory else "failed", "type": type(error).__name__, "message": text[:2000]}
