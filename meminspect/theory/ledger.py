"""A strategy's theory: named allocations and releases in order, and what follows from them.

A ledger is a stream of steps, one a tensor. Its running sums are the timeline that the measurement is held against;
their maxima are the peaks, their end is the steady state, and what is live at the peak is the bill.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BillLine", "Item", "Pools", "Step", "Theory", "evaluate"]


class Item:
    """The lines of a bill, by their words."""

    FLOOR: Final = "floor"  # what the loaded model must occupy
    UPCAST: Final = "dtype upcast"  # the model's initial dtype is wider than it need be
    DUPLICATE: Final = "duplicate state dict"  # the checkpoint's tensors beside the model's
    SHARD: Final = "shard"  # the same, one file at a time
    BESIDE: Final = "beside the state dict"  # what a file holds that is not the model's
    STAGING: Final = "staging"  # a source that is dropped as soon as its copy is made
    RETAINED: Final = "retained by the allocator"  # freed, and not given back to the kernel
    ALLOCATOR: Final = "allocator rounding"
    UNEXPLAINED: Final = "unexplained"


class Step(NamedTuple):
    """One named change of memory, or one piece of work without any.

    MATERIALISE adds to heap at once; a mapping (pool FILE) adds nothing until TOUCH, and RELEASE takes away. COPY and
    ASSIGN are work only.
    """

    phase: str
    operation: Operation
    pool: Pool
    item: str
    tensor: str
    nbytes: int

    @property
    def delta_bytes(self) -> int:
        """By how much the pool grows."""
        if self.operation is Operation.RELEASE:
            return -self.nbytes
        grows = Operation.TOUCH if self.pool is Pool.FILE else Operation.MATERIALISE
        return self.nbytes if self.operation is grows else 0


@dataclass(frozen=True, slots=True)
class Pools:
    """Bytes by pool, as the JSON contract names them; None where unknown."""

    heap_bytes: int | None = 0
    file_bytes: int | None = 0
    pinned_bytes: int | None = 0
    vram_allocated_bytes: int | None = None
    vram_reserved_bytes: int | None = None


class BillLine(NamedTuple):
    """A part of the peak."""

    item: str
    pool: str
    nbytes: int


@dataclass(frozen=True)
class Theory:
    """What a ledger says in total: bytes above the baseline."""

    floor_bytes: int
    peak: Pools  # each pool at its own highest moment
    peak_rss_bytes: int  # all host pools together at theirs
    steady: Pools
    bill: tuple[BillLine, ...] = field(default=())  # of the moment of peak_rss_bytes
    work_bytes: int = 0  # bytes of all steps that events report (a copy's reading of its source is not one)


def evaluate(steps: Iterable[Step], floor_bytes: int) -> Theory:
    """Run through a ledger once."""
    pools: dict[Pool, int] = defaultdict(int)
    peaks: dict[Pool, int] = defaultdict(int)
    live: dict[tuple[str, Pool], int] = defaultdict(int)
    bill: dict[tuple[str, Pool], int] = {}
    total = peak_total = work = 0
    rising = False
    for step in steps:
        delta = step.delta_bytes
        if step.operation is not Operation.RELEASE and (step.operation is not Operation.TOUCH or step.phase == "touch"):
            work += step.nbytes
        if delta < 0 and rising:  # the only moments at which a maximum can be: right before something goes
            if total > peak_total:
                peak_total, bill = total, dict(live)
            rising = False
        rising = rising or delta > 0
        pools[step.pool] += delta
        total += delta
        live[step.item, step.pool] += delta
        peaks[step.pool] = max(peaks[step.pool], pools[step.pool])
    if total > peak_total:
        peak_total, bill = total, dict(live)
    return Theory(
        floor_bytes,
        Pools(peaks[Pool.HEAP], peaks[Pool.FILE], peaks[Pool.PINNED]),
        peak_total,
        Pools(pools[Pool.HEAP], pools[Pool.FILE], pools[Pool.PINNED]),
        tuple(BillLine(item, pool.name.lower(), nbytes) for (item, pool), nbytes in bill.items() if nbytes),
        work,
    )
