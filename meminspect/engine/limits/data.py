"""The limit that needs nobody's leave, and the worst: RLIMIT_DATA.

Source: `man 2 getrlimit`; the kernel's mm/mmap.c (`may_expand_vm`) and mm/internal.h (`is_data_mapping`): private,
writable mappings count when they are made, whether of a file or not, and however little of them is ever touched.
"""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Final

from meminspect.analysis.run import RLIMIT_DATA
from meminspect.engine.limits.confinement import Confinement
from meminspect.errors import RunError
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BIAS", "data_limit"]

BIAS: Final = (
    "limited by RLIMIT_DATA, which counts memory as it is promised rather than used, and private mappings of files, "
    "which the kernel could reclaim: a load that maps its files can fail where it would complete"
)


@contextlib.contextmanager
def data_limit(nbytes: int) -> Iterator[Confinement]:
    """A limit on the address space for data that a process may ask for; each process has its own.

    Raises:
        RunError: there is a tighter one already, which only root may widen.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY and hard < nbytes:
        raise RunError(f"RLIMIT_DATA is {format_bytes(hard)} already")

    def enter() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))

    yield Confinement(nbytes, RLIMIT_DATA, enter=enter, bias=BIAS, note=BIAS)
