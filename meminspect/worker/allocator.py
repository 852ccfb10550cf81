"""What the C library's allocator has in use and keeps of the memory that was freed (glibc: `man 3 mallinfo`).

Another C library does not tell. Beside it Python has an allocator of its own for small objects, whose books
(`sys._debugmallocstats`) are there to be read by people, on standard error.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["arena_bytes", "free_bytes", "trim", "used_bytes"]

_FIELDS: Final = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


_STDERR: Final = 2
_LONGEST_BOOKS: Final = 64 << 10
_ARENAS: Final = re.compile(rb"(\d+) arenas \* (\d+) bytes/arena")  # Objects/obmalloc.c, _PyObject_DebugMallocStats


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


def arena_bytes() -> int:
    """Bytes that the arenas of the C library's allocator span, in use, free or given back; 0 where it does not tell."""
    return 0 if _ask is None else int(_ask().arena)


def used_bytes() -> int | None:
    """Bytes that are in use in all arenas and mappings of the C library's allocator, and in the arenas of Python's.

    It takes some hundred microseconds: too much where a load takes a second.
    """
    arenas_bytes = _python_arenas_bytes()
    if _ask is None or arenas_bytes is None:
        return None
    books = _ask()
    return int(books.uordblks + books.hblkhd) + arenas_bytes


def _python_arenas_bytes() -> int | None:
    """What Python's allocator has taken from the system; None where it does not tell."""
    try:
        books, stderr = os.memfd_create("allocator"), os.dup(_STDERR)
    except (AttributeError, OSError):  # another system, or a container that forbids it
        return None
    try:
        os.dup2(books, _STDERR)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, _STDERR)
        found = _ARENAS.search(os.pread(books, _LONGEST_BOOKS, 0))
    finally:
        os.close(books)
        os.close(stderr)
    return int(found[1]) * int(found[2]) if found else None


def trim() -> bool:
    """Give back what can be given back; False where the C library cannot."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is None:
        return False
    function(ctypes.c_size_t(0))
    return True
