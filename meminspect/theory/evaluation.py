"""What a ledger comes to: peaks, steady state and bill, in one pass over its steps."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from meminspect.capture.records import Operation, Pool
from meminspect.theory.cuda_allocator import CachingAllocator
from meminspect.theory.host_allocator import PinnedAllocator
from meminspect.theory.ledger import BillLine, Item, Pools, Theory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meminspect.theory.ledger import Step

__all__ = ["DeviceAllocator", "evaluate"]

# Looked up once: in Python 3.11 finding a member of an enumeration takes as long as the rest of a step.
_COPY, _MATERIALISE, _RELEASE, _TOUCH = Operation.COPY, Operation.MATERIALISE, Operation.RELEASE, Operation.TOUCH
_NONE, _PINNED, _VRAM = Pool.NONE, Pool.PINNED, Pool.VRAM
_WITHIN_COPY = Item.WITHIN_COPY


class DeviceAllocator(Protocol):
    """What steps on a device take their memory from."""

    @property
    def allocated_bytes(self) -> int:
        """What is taken."""

    @property
    def reserved_bytes(self) -> int | None:
        """What it has ever taken from the driver; None where nobody knows."""

    def allocate(self, nbytes: int) -> Any:
        """Take so many bytes."""

    def free(self, block: Any) -> None:
        """Give back what `allocate` has returned."""


def evaluate(
    steps: Iterable[Step],
    floor_bytes: int,
    copies: Mapping[str, int] = MappingProxyType({}),
    allocator: DeviceAllocator | None = None,
) -> Theory:
    """Run through a ledger once.

    The device's pools are None where no step is on it. Of rounds the first tells all but the work: each takes and gives
    back the same, and leaves an allocator as it was.

    Args:
        steps: the ledger.
        floor_bytes: what the loaded model must occupy.
        copies: how many tensors those that are named here stand for. Their steps, one after the other, are gone through
            that often; the same steps of tensors that stand for themselves come before and after them, and hold the
            host's peaks (see `strategies.grouping`).
        allocator: the device's; None for CUDA's.
    """
    host, device = _Host(), _Device(allocator or CachingAllocator())
    work = moved = 0
    for times, block in _blocks(steps, copies):
        on_device: list[Step] = []
        for step in block:
            phase, operation, pool, item, _, nbytes, rounds = step
            delta = 0 if pool is _NONE else step.delta_bytes
            if operation is not _RELEASE:
                at_work = times * rounds * nbytes
                if item != _WITHIN_COPY and (operation is not _TOUCH or phase == "touch"):  # events tell of it
                    work += at_work
                if operation is _COPY or delta > 0:
                    moved += at_work
            if pool is _VRAM:
                if times == 1:
                    device.apply(step)
                else:
                    on_device.append(step)
            elif pool is not _NONE:
                if pool is _PINNED:
                    host.pin(step)
                else:
                    host.apply(pool, item, delta, times)
        device.repeat(on_device, times)
    host.look()
    device.look()
    reserved = device.known(device.reserved_bytes)  # what it has once taken from the driver it keeps
    return Theory(
        floor_bytes,
        _pools(host.peaks, device.known(device.peak_bytes), reserved),
        host.peak_bytes,
        _pools(host.pools, device.known(device.allocated_bytes), reserved),
        (*host.bill(), *device.bill()),
        work,
        moved,
    )


def _blocks(steps: Iterable[Step], copies: Mapping[str, int]) -> Iterable[tuple[int, Iterable[Step]]]:
    """Neighbours that are to be gone through equally often."""
    if not copies:
        return ((1, steps),)
    return itertools.groupby(steps, key=lambda step: copies.get(step.tensor, 1))


def _pools(host: list[int], allocated: int | None, reserved: int | None) -> Pools:
    return Pools(host[Pool.HEAP], host[Pool.FILE], host[Pool.PINNED], allocated, reserved)


class _Host:
    """The running sums of the host's pools, and what was live when they were highest together."""

    def __init__(self) -> None:
        self.pools = [0] * (Pool.PINNED + 1)  # by Pool
        self.peaks = list(self.pools)
        self.peak_bytes = 0
        self._live: dict[tuple[str, Pool], int] = defaultdict(int)
        self._live_at_peak: dict[tuple[str, Pool], int] = {}
        self._rising = False
        self._pinned = PinnedAllocator()

    def apply(self, pool: Pool, item: str, delta: int, times: int) -> None:
        """Take a step by which its pool grows by `delta`; of one that is taken more than once only the sum."""
        if times > 1:
            self.pools[pool] += times * delta
            self._live[item, pool] += times * delta
            return
        if delta > 0:
            self._rising = True
        elif self._rising and delta:
            self.look()
        nbytes = self.pools[pool] = self.pools[pool] + delta
        if nbytes > self.peaks[pool]:
            self.peaks[pool] = nbytes
        self._live[item, pool] += delta

    def pin(self, step: Step) -> None:
        """Page-locked memory comes and goes through an allocator that gives nothing back to the system.

        As often as it may come, one after the other: each takes the block of the one before.
        """
        if step.operation is _RELEASE:
            self.look()
        else:
            self._rising = True
        self._pinned.apply(step)
        self._live[step.item, _PINNED] += step.nbytes if step.operation is _MATERIALISE else -step.nbytes
        self.pools[_PINNED] = self.peaks[_PINNED] = self._pinned.reserved_bytes

    def look(self) -> None:
        """Before something goes, and at the end: the only moments at which a maximum can be.

        Of equal ones it is the last: what a process gathers meanwhile makes that the highest of those measured.
        """
        if self._rising and (total := sum(self.pools)) >= self.peak_bytes:
            self.peak_bytes, self._live_at_peak = total, dict(self._live)
            pinned = sum(nbytes for (_, pool), nbytes in self._live.items() if pool is _PINNED)
            self._live_at_peak[Item.RETAINED, _PINNED] = self.pools[_PINNED] - pinned
        self._rising = False

    def bill(self) -> list[BillLine]:
        """What the highest sum was made of."""
        return [
            BillLine(item, pool.name.lower(), nbytes) for (item, pool), nbytes in self._live_at_peak.items() if nbytes
        ]


class _Request:
    """One allocation on the device; a ledger names its parts, as floor and upcast, in steps of their own."""

    __slots__ = ("block", "nbytes", "parts")

    def __init__(self) -> None:
        self.nbytes = 0
        self.parts = 0
        self.block: Any = None


class _Device:
    """Steps on the device as its allocator counts them."""

    def __init__(self, allocator: DeviceAllocator) -> None:
        self.peak_bytes = 0
        self._allocator = allocator
        self._live: dict[str, int] = defaultdict(int)
        self._live_at_peak: dict[str, int] = {}
        self._requests: dict[tuple[str, str], deque[_Request]] = defaultdict(deque)  # by item and tensor
        self._open: _Request | None = None  # not asked for yet: the next step may name another part of it
        self._last: Step | None = None  # the latest part of it

    @property
    def allocated_bytes(self) -> int:
        """What is allocated now."""
        return self._allocator.allocated_bytes

    @property
    def reserved_bytes(self) -> int | None:
        """What is reserved now; since that never falls, it is the peak too."""
        return self._allocator.reserved_bytes

    def known(self, nbytes: int | None) -> int | None:
        """A figure of the device; None where no step was on it."""
        return nbytes if self._requests else None

    def repeat(self, steps: Sequence[Step], times: int) -> None:
        """Take steps together, as often as that says."""
        for _ in range(times if steps else 0):
            for step in steps:
                self.apply(step)

    def apply(self, step: Step) -> None:
        """Take a step: what the allocator does depends on their order."""
        if step.operation is _MATERIALISE:
            self._take(step)
        elif step.operation is _RELEASE:
            self._give_back(step)

    def look(self) -> None:
        """Before something goes, and at the end: the only moments at which a maximum can be."""
        self._ask()
        if self.allocated_bytes > self.peak_bytes:
            self.peak_bytes, self._live_at_peak = self.allocated_bytes, dict(self._live)

    def bill(self) -> list[BillLine]:
        """What the most that was allocated was made of."""
        rounding = self.peak_bytes - sum(self._live_at_peak.values())
        lines = {**self._live_at_peak, Item.ALLOCATOR: rounding}
        return [BillLine(item, "vram", nbytes) for item, nbytes in lines.items() if nbytes]

    def _take(self, step: Step) -> None:
        last = self._last
        # What a weight takes beyond the floor, in its initial dtype or in full precision, lies in the same tensor.
        same = last is not None and (last.phase, last.tensor) == (step.phase, step.tensor)
        if not same or step.item not in (Item.UPCAST, Item.DETOUR):
            self._ask()
        self._last = step
        request = self._open = self._open or _Request()
        request.nbytes += step.nbytes
        request.parts += 1
        self._requests[step.item, step.tensor].append(request)
        self._live[step.item] += step.nbytes

    def _ask(self) -> None:
        """Ask the allocator for the request that is complete by now."""
        if self._open is not None:
            self._open.block = self._allocator.allocate(self._open.nbytes)
        self._open = self._last = None

    def _give_back(self, step: Step) -> None:
        self.look()
        request = self._requests[step.item, step.tensor].popleft()
        self._live[step.item] -= step.nbytes
        request.parts -= 1
        if not request.parts:
            self._allocator.free(request.block)
