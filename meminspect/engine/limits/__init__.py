"""A memory limit for one worker, by the best means that there is here."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Final

from meminspect.engine.limits.confinement import Confinement
from meminspect.engine.limits.data import data_limit
from meminspect.engine.limits.group import limited_group
from meminspect.engine.limits.scope import limited_scope
from meminspect.errors import RunError, UsageError
from meminspect.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEAST_BYTES", "Confinement", "confined", "parse_limit", "require_limits"]

LEAST_BYTES: Final = 64 << 20
"""An interpreter alone takes about this much: less says nothing of any strategy."""

_REMEDY: Final = "limits need root or a delegated cgroup"
_MEANS: Final = (limited_group, limited_scope, data_limit)


def parse_limit(text: str) -> int:
    """Parse a limit in bytes: ``8GiB``.

    Raises:
        UsageError: it is not a size, or too small for any process.
    """
    nbytes = parse_bytes(text)
    if nbytes < LEAST_BYTES:
        raise UsageError(f"{format_bytes(nbytes)} leaves a process no room", "write it like 8GiB, 512MiB or 16GB")
    return nbytes


def require_limits() -> None:
    """Return where a process's memory can be limited at all.

    Raises:
        RunError: on this system nothing does that.
    """
    if sys.platform != "linux":  # macOS has RLIMIT_DATA, and holds it against no mapping
        raise RunError("no memory limit can be set: this system enforces none on a process, as Linux does")


@contextlib.contextmanager
def confined(nbytes: int) -> Iterator[Confinement]:
    """Prepare a limit for one worker: in a cgroup that we make, in one that systemd makes, or by RLIMIT_DATA.

    Raises:
        RunError: none of them can be had, for the reasons that it says.
    """
    with contextlib.ExitStack() as stack:
        yield _first(stack, nbytes)


def _first(stack: contextlib.ExitStack, nbytes: int) -> Confinement:
    require_limits()
    reasons: list[str] = []
    for means in _MEANS:
        with _noted(reasons):
            found = stack.enter_context(means(nbytes))
            return dataclasses.replace(found, note="; ".join([found.note, *reasons]) if found.note else "")
    raise RunError(f"no memory limit can be set: {'; '.join(reasons)}; {_REMEDY}")


@contextlib.contextmanager
def _noted(reasons: list[str]) -> Iterator[None]:
    try:
        yield
    except RunError as error:
        reasons.append(error.message)
