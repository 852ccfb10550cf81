"""What the C library's allocator keeps of the memory that was freed, and giving that back (glibc: `man 3 mallinfo`).

Another C library has neither; then there is nothing to tell.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["free_bytes", "trim"]

_FIELDS: Final = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33
    if function is not None:
        function.restype = _Mallinfo2
        function.argtypes = ()
    return function


_ask: Final = _mallinfo2()


def free_bytes() -> int | None:
    """Bytes that were freed and that the allocator has not given back to the kernel, in all its arenas."""
    return None if _ask is None else int(_ask().fordblks)


def trim() -> bool:
    """Give back what can be given back; False where the C library cannot."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is None:
        return False
    function(ctypes.c_size_t(0))
    return True
