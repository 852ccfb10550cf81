"""What theory predicts under a limit: heap stays, and a mapping can hold only what heap leaves of the room.

The kernel drops clean pages of files before a limit is exceeded and reads them again when they are touched, so that at
every moment `file = min(file, room − heap)`. A maximum over moments of such sums is the smaller of the old maximum and
the room, and never less than the highest heap.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from meminspect.analysis.describe import theory_document
from meminspect.analysis.verdict import unreclaimable_bytes
from meminspect.theory.ledger import BillLine, Pools, Theory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["confined_document", "confined_lines", "confined_theory", "held_bytes", "room_under"]

_FILE, _DEVICE = "file", "vram"


def room_under(limit_bytes: int | None, baseline_heap_bytes: int) -> int | None:
    """What a limit leaves above the baseline; None without a limit.

    Of the baseline only its heap counts: the pages of its libraries are shared, and charged to whoever read them first.
    """
    return None if limit_bytes is None else max(0, limit_bytes - baseline_heap_bytes)


def held_bytes(file_bytes: int, unreclaimable: int, room_bytes: int | None) -> int:
    """How much of a mapping can be resident beside what cannot be reclaimed."""
    return file_bytes if room_bytes is None else min(file_bytes, max(0, room_bytes - unreclaimable))


def confined_theory(theory: Theory, room_bytes: int | None) -> Theory:
    """A theory as it is in this much room above the baseline; itself where that is unlimited."""
    if room_bytes is None:
        return theory
    peak_rss_bytes = min(theory.peak_rss_bytes, max(room_bytes, unreclaimable_bytes(theory.peak)))
    return dataclasses.replace(
        theory,
        peak=_confined_pools(theory.peak, room_bytes),
        peak_rss_bytes=peak_rss_bytes,
        steady=_confined_pools(theory.steady, room_bytes),
        bill=confined_lines(theory.bill, room_bytes),
    )


def confined_document(theory: Mapping[str, Any] | None, room_bytes: int | None) -> dict[str, Any] | None:
    """As `confined_theory`, for THEORY of the JSON contract."""
    if theory is None or room_bytes is None or "bill" not in theory:
        return None if theory is None else dict(theory)
    parsed = Theory(
        theory["floor_bytes"],
        Pools(**theory["peak"]),
        theory["peak_rss_bytes"],
        Pools(**theory["steady"]),
        tuple(BillLine(line["item"], line["pool"], line["bytes"]) for line in theory["bill"]),
        moved_bytes=theory.get("moved_bytes", 0),
    )
    return {**theory, **theory_document(confined_theory(parsed, room_bytes))}


def confined_lines(lines: Iterable[BillLine], room_bytes: int | None) -> tuple[BillLine, ...]:
    """A bill whose lines of files hold, each by its share, no more than the host's others leave.

    Lines that this leaves empty are left out.
    """
    lines = tuple(lines)
    whole = sum(line.nbytes for line in lines if line.pool == _FILE)
    others = sum(line.nbytes for line in lines if line.pool not in (_FILE, _DEVICE))
    left = held = held_bytes(whole, others, room_bytes)
    if held == whole:
        return lines
    confined, passed = [], 0
    for line in lines:
        if line.pool == _FILE:
            passed += line.nbytes
            rest = held - held * passed // whole  # of what is passed, so that the shares sum to what is held
            line = line._replace(nbytes=left - rest)
            left = rest
        if line.nbytes:
            confined.append(line)
    return tuple(confined)


def _confined_pools(pools: Pools, room_bytes: int) -> Pools:
    if pools.file_bytes is None:
        return pools
    return dataclasses.replace(pools, file_bytes=held_bytes(pools.file_bytes, unreclaimable_bytes(pools), room_bytes))
