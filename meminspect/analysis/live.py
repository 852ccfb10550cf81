"""What was in memory at a moment of a run, tensor by tensor, replayed from the worker's events."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.analysis.confinement import confined_lines, held_bytes
from meminspect.analysis.window import RESOLUTION_BYTES
from meminspect.capture.records import EventKind, Operation, Pool
from meminspect.theory.ledger import BillLine, Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from meminspect.capture.records import Event

__all__ = ["LedgerRow", "Place", "bill", "parted", "place_at", "shares", "tensors_materialised"]

_WORTH_A_LINE_BYTES: Final = 1 << 20

LedgerRow = tuple[str, str, str, str, str, int]  # phase, operation, pool, item, tensor, bytes


class Place(NamedTuple):
    """Where a run was at a moment."""

    phase: str | None
    tensor: str | None


def place_at(events: Iterable[Event], t_ns: int, baseline_ns: int) -> Place:
    """Just before a moment: the phase, and the tensor that was in flight or else the last one that was.

    Since the reading before, not every tensor has had one of its own: of them the last that the kernel's counters can
    tell from none is taken, if there is one. What was before the baseline is no place in the run.
    """
    phase: str | None = None
    tensor: str | None = None
    telling: str | None = None
    for event in events:
        if event.t_ns >= t_ns:
            break
        if event.t_ns < baseline_ns:
            continue
        if event.reading is not None:
            telling = None
        if event.kind is EventKind.PHASE:
            phase, tensor = event.name, None
        elif event.kind is EventKind.BEGIN and event.name:  # a whole file that is mapped is no tensor
            tensor = event.name
            telling = event.name if event.nbytes >= RESOLUTION_BYTES else telling
    return Place(phase, telling or tensor)


def tensors_materialised(events: Iterable[Event], others: Iterable[str] = ()) -> int:
    """How many different tensors got memory or a mapping; names that are none of a tensor do not count."""
    ends = (event for event in events if event.kind is EventKind.END and event.name)
    return len({event.name for event in ends if event.operation is Operation.MATERIALISE} - set(others))


class _Replay:
    """Follows the events and knows at each moment which tensors' bytes are resident."""

    def __init__(self) -> None:
        self.phase = ""
        self.heap_bytes = self._file_bytes = 0
        self._heap: dict[int, tuple[str, Event]] = {}  # id → phase in which it came, event
        self._reserved: dict[str, Event] = {}  # tensor → memory that nothing has been written to yet
        self._mapped: dict[int, Event] = {}
        self._mapped_by_name: dict[str, list[Event]] = defaultdict(list)
        self._mapped_in_file: Counter[int] = Counter()
        self._touched: dict[int, dict[str, tuple[str, int]]] = defaultdict(dict)  # file → tensor → phase, bytes

    def apply(self, event: Event) -> None:
        if event.kind is EventKind.PHASE:
            self.phase = event.name
        elif event.kind is EventKind.BEGIN:
            self._begin(event)
        elif event.kind is EventKind.RELEASE:
            self._release(event)

    def total_bytes(self, room_bytes: int | None) -> int:
        """How much that is; in a limited room the kernel keeps of the files' pages only what heap leaves."""
        return self.heap_bytes + held_bytes(self._file_bytes, self.heap_bytes, room_bytes)

    def resident(self) -> Iterable[tuple[str, Pool, str, int]]:
        """Phase, pool, tensor and bytes of everything resident."""
        for phase, event in self._heap.values():
            yield phase, Pool.HEAP, event.name, event.nbytes
        for tensors in self._touched.values():
            for name, (phase, nbytes) in tensors.items():
                yield phase, Pool.FILE, name, nbytes

    def _begin(self, event: Event) -> None:
        if event.operation is Operation.MATERIALISE and event.pool is Pool.FILE:
            self._mapped[event.id] = event
            self._mapped_by_name[event.name].append(event)
            self._mapped_in_file[event.file] += 1
            return
        if event.operation in (Operation.COPY, Operation.TOUCH) or event.pool in (Pool.HEAP, Pool.VRAM):
            # Whatever reads a mapped tensor's values makes its pages resident.
            for source in self._mapped_by_name[event.name]:
                tensors = self._touched[source.file]
                if source.name not in tensors:
                    tensors[source.name] = (self.phase, source.nbytes)
                    self._file_bytes += source.nbytes
        if event.operation is Operation.MATERIALISE and event.pool is Pool.NONE:
            self._reserved[event.name] = event
        elif event.operation is Operation.MATERIALISE and event.pool is Pool.HEAP:
            self._take(event)
        elif event.operation is Operation.COPY and event.name in self._reserved:
            self._take(self._reserved.pop(event.name))  # writing to it brings its pages

    def _take(self, event: Event) -> None:
        """What an event has made is on the heap."""
        self._heap[event.id] = (self.phase, event)
        self.heap_bytes += event.nbytes

    def _release(self, event: Event) -> None:
        if event.id in self._heap:
            self.heap_bytes -= self._heap.pop(event.id)[1].nbytes
        source = self._mapped.pop(event.id, None)
        if source is None:
            return
        self._mapped_by_name[source.name].remove(source)
        self._mapped_in_file[source.file] -= 1
        if not self._mapped_in_file[source.file]:  # a mapping's pages go when its last tensor does
            tensors = self._touched.pop(source.file, {})
            self._file_bytes -= sum(nbytes for _, nbytes in tensors.values())


def bill(
    events: Sequence[Event],
    ledger: Iterable[LedgerRow],
    t_ns: int,
    baseline_ns: int,
    peak_rss_bytes: int,
    *,
    retained_bytes: int = 0,
    fallen_bytes: int | None = None,
    heap_bytes: int | None = None,
    used_bytes: int | None = None,
    room_bytes: int | None = None,
    beside: Sequence[BillLine] = (),
) -> tuple[BillLine, ...]:
    """What the peak was made of: the tensors that the events show in memory, under the items that theory files them.

    Args:
        events: the run's events.
        ledger: the theory's rows; they give names to lines, never sizes to them.
        t_ns: when the peak was read off the high-water mark. It lies between the worker's reading before that and it,
            where most was in memory.
        baseline_ns: the moment of the baseline.
        peak_rss_bytes: the measured peak above the baseline.
        retained_bytes: what the allocator said that it kept of freed memory.
        fallen_bytes: by how much less was in memory when it said so than at the peak: of tensors released between
            the two, that much has gone back to the kernel, and the rest is counted in what it kept. None where it was
            asked at another moment than `t_ns`.
        heap_bytes: the most heap that there can have been above the baseline: an allocator also keeps what nobody has
            written to, which is in no memory.
        used_bytes: what the allocators said that was in use: where it is more than tensors, the rest is their objects.
            None where nobody asked.
        room_bytes: what a limit left above the baseline, if there was one: touched pages may be gone again.
        beside: lines that no tensor's event tells of.

    Returns:
        Lines that sum to the measurement; the last, signed, is what no event explains.
    """
    resident, freed_bytes = _most_resident([event for event in events if baseline_ns <= event.t_ns < t_ns], room_bytes)
    if fallen_bytes is not None:
        retained_bytes -= max(0, freed_bytes - fallen_bytes)
    filed = shares(ledger)
    anywhere = {(pool, tensor): items for (_, pool, tensor), items in filed.items()}  # a library has its own phases
    sums: dict[tuple[str, Pool], int] = defaultdict(int)
    for phase, pool, tensor, nbytes in resident:
        kind = pool.name.lower()
        items = filed.get((phase, kind, tensor)) or anywhere.get((kind, tensor))
        for item, part in parted(items, nbytes) if items else ():
            sums[item, pool] += part
    objects_bytes = (used_bytes or 0) - _on_heap(sums)
    if objects_bytes >= _WORTH_A_LINE_BYTES:
        sums[Item.OBJECTS, Pool.HEAP] += objects_bytes
    if heap_bytes is not None:
        retained_bytes = min(retained_bytes, heap_bytes - _on_heap(sums))
    if retained_bytes >= _WORTH_A_LINE_BYTES:
        sums[Item.RETAINED, Pool.HEAP] += retained_bytes
    lines = [BillLine(item, pool.name.lower(), nbytes) for (item, pool), nbytes in sums.items() if nbytes]
    lines += beside
    lines = sorted(confined_lines(lines, room_bytes), key=lambda line: -line.nbytes)
    explained = sum(line.nbytes for line in lines)
    return (*lines, BillLine(Item.UNEXPLAINED, "", peak_rss_bytes - explained))


def _on_heap(sums: Mapping[tuple[str, Pool], int]) -> int:
    return sum(nbytes for (_, pool), nbytes in sums.items() if pool is Pool.HEAP)


def _most_resident(events: Sequence[Event], room_bytes: int | None) -> tuple[Iterable[tuple[str, Pool, str, int]], int]:
    """What was resident when most was, from the last event with a reading on, and by how much heap has fallen since."""
    last = max((index for index, event in enumerate(events) if event.reading is not None), default=0)
    replay, totals = _Replay(), list[int]()
    for event in events:
        replay.apply(event)
        totals.append(replay.total_bytes(room_bytes))
    most = max(range(last, len(events)), key=totals.__getitem__, default=0)  # the first of equals
    then = _Replay()
    for event in events[: most + 1]:
        then.apply(event)
    return then.resident(), max(0, then.heap_bytes - replay.heap_bytes)


def shares(ledger: Iterable[LedgerRow]) -> dict[tuple[str, str, str], list[tuple[str, int]]]:
    """For each phase, pool and tensor what theory makes there: item and bytes, step by step."""
    found: dict[tuple[str, str, str], list[tuple[str, int]]] = defaultdict(list)
    for phase, operation, pool, item, tensor, nbytes in ledger:
        if operation in ("materialise", "touch") and item:
            found[phase, pool, tensor].append((item, nbytes))
    return found


def parted(steps: Sequence[tuple[str, int]], nbytes: int) -> Iterator[tuple[str, int]]:
    """Memory under the items that theory has for it: that of the one step of this size, else all in proportion.

    Of a passing one and one that stays it is what stays: most of what is seen has.
    """
    exact = {item for item, size in steps if size == nbytes}
    if len(exact) > 1:
        exact -= {Item.STAGING}
    if len(exact) == 1:
        yield exact.pop(), nbytes
        return
    total = sum(size for _, size in steps) or 1
    parts = [nbytes * size // total for _, size in steps]
    parts[0] += nbytes - sum(parts)
    yield from zip((item for item, _ in steps), parts, strict=True)
