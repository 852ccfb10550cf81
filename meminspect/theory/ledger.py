"""A strategy's theory: named allocations and releases in order, and what follows from them.

A ledger is a stream of steps, one a tensor. Its running sums are the timeline that the measurement is held against;
their maxima are the peaks, their end is the steady state, and what is live at the peak is the bill: `theory.evaluation`
adds them up.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["BillLine", "Item", "Pools", "Step", "Theory", "spelt_out"]

# Looked up once: in Python 3.11 finding a member of an enumeration takes as long as the rest of a step.
_MATERIALISE, _RELEASE, _TOUCH = Operation.MATERIALISE, Operation.RELEASE, Operation.TOUCH
_LATER: Final = (Pool.NONE, Pool.FILE)  # where what is materialised adds nothing until it is touched


class Item:
    """The lines of a bill, by their words."""

    FLOOR: Final = "floor"  # what the loaded model must occupy
    QUANTISED: Final = "quantised layers"  # the floor's part that is no longer as the checkpoint has it
    UPCAST: Final = "dtype upcast"  # the model's initial dtype is wider than it need be
    DUPLICATE: Final = "duplicate state dict"  # the checkpoint's tensors beside the model's
    DETOUR: Final = "full precision"  # of layers that are quantised once they are loaded
    SHARD: Final = "shard"  # the same, one file at a time
    BESIDE: Final = "beside the state dict"  # what a file holds that is not the model's
    RANDOM: Final = "random weights"  # of a model that is gone again
    LIBRARIES: Final = "imported libraries"  # in a script of the user's own, which imports them itself
    STAGING: Final = "staging"  # a source that is dropped as soon as its copy is made
    WITHIN_COPY: Final = "within torch's copy"  # what one `copy_` makes and drops again: no event tells of it
    RETAINED: Final = "retained by the allocator"  # freed, and not given back to the kernel
    OBJECTS: Final = "objects"  # what Python and torch keep of each tensor beside its data: of very many only
    ALLOCATOR: Final = "allocator rounding"
    UNEXPLAINED: Final = "unexplained"


class Step(NamedTuple):
    """One named change of memory, or one piece of work without any.

    MATERIALISE adds to its pool at once, and RELEASE takes away. A mapping (pool FILE) adds nothing until TOUCH, and
    memory of the host that nothing has been written to is in no pool yet: it is materialised in NONE, and its pages
    come with TOUCH. COPY and ASSIGN are work only.

    Steps that come `times` over are a round, with their neighbours of the same number: one round after the other, each
    of which gives back what it has taken.
    """

    phase: str
    operation: Operation
    pool: Pool
    item: str
    tensor: str
    nbytes: int
    times: int = 1

    @property
    def delta_bytes(self) -> int:
        """By how much the pool grows."""
        if self.operation is _RELEASE:
            return -self.nbytes
        comes = self.operation is _MATERIALISE and self.pool not in _LATER
        return self.nbytes if comes or self.operation is _TOUCH else 0

    def given_back(self, phase: str) -> Step:
        """The step that takes away what this one adds."""
        return Step(phase, _RELEASE, self.pool, self.item, self.tensor, self.nbytes, self.times)


def spelt_out(steps: Iterable[Step]) -> Iterator[Step]:
    """Every step by itself: rounds are gone through as often as they come."""
    for times, neighbours in itertools.groupby(steps, key=attrgetter("times")):
        if times == 1:
            yield from neighbours
        else:
            once = [step._replace(times=1) for step in neighbours]
            yield from itertools.chain.from_iterable(itertools.repeat(once, times))


@dataclass(frozen=True, slots=True)
class Pools:
    """Bytes by pool, as the JSON contract names them; None where unknown."""

    heap_bytes: int | None = 0
    file_bytes: int | None = 0
    pinned_bytes: int | None = 0
    vram_allocated_bytes: int | None = None
    vram_reserved_bytes: int | None = None


class BillLine(NamedTuple):
    """A part of a peak: of the host's pools together, or of what is allocated on the device."""

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
    bill: tuple[BillLine, ...] = field(default=())  # of the moment of peak_rss_bytes, then of the device's own peak
    work_bytes: int = 0  # bytes of all steps that events report (a copy's reading of its source is not one)
    moved_bytes: int = 0  # what is written, copied or touched until the model is resident
