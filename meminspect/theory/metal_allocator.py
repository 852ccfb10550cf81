"""What is known of torch's allocator for Metal: what tensors take, and not what it reserves for them.

Metal says how many bytes a buffer takes and how it is aligned, and buffers lie in heaps that torch keeps
(aten/src/ATen/mps/MPSAllocator.mm, heapBufferSizeAndAlignWithLength): neither can be told without a Mac.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["WHY_NOT_RESERVED", "TensorsAlone"]

WHY_NOT_RESERVED: Final = "only Metal says what it takes for a tensor, and torch keeps heaps of it"


class _Tensor(NamedTuple):
    nbytes: int


class TensorsAlone:
    """An allocator that rounds nothing.

    Attributes:
        allocated_bytes: at the least, what torch.mps.current_allocated_memory() says.
        reserved_bytes: nobody knows.
    """

    reserved_bytes = None

    def __init__(self) -> None:
        self.allocated_bytes = 0

    def allocate(self, nbytes: int) -> _Tensor:
        """Take a tensor's bytes."""
        self.allocated_bytes += nbytes
        return _Tensor(nbytes)

    def free(self, tensor: _Tensor) -> None:
        """Give back what `allocate` returned, once."""
        self.allocated_bytes -= tensor.nbytes
