"""What code of the user's own has had in memory, told from its events alone: no theory says beforehand what it does.

Every allocation that events tell of is sorted by what became of it: the model took it over, it was copied into the
model, the model was made there, … A script's bill is made of that, and `analysis.patterns` recognises by it what costs
more than it need.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import EventKind, Operation, Pool
from meminspect.dtypes import BITS
from meminspect.theory.ledger import BillLine, Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meminspect.analysis.live import LedgerRow
    from meminspect.capture.records import Event, Reading

__all__ = ["NEVER", "Copied", "Made", "OwnCode", "import_lines", "own_rows"]

NEVER: Final = 1 << 62
_WORTH_A_LINE_BYTES: Final = 1 << 20
_ARROW: Final = " → "
_QUANTISED: Final = ("int8", "uint8", "float8", "uint4", "int4")
_IN_PHASE: Final = {
    "build": "built",
    "cast": "cast",
    "copy": "cast",
    "move": "cast",
    "merge": "merged",
    "quantise": "quantised",
}


@dataclass(slots=True, eq=False)
class Made:
    """Memory that came into being under a tensor's name."""

    name: str
    kind: str  # built, read, mapped, cast, merged or quantised
    phase: str  # in which it came; of a mapping: in which its pages did
    pool: Pool
    dtype: str
    nbytes: int
    file: int
    begin_ns: int
    end_ns: int = NEVER  # when it was released
    touched_ns: int = NEVER  # of a mapping: when its pages came
    assigned: bool = False  # the model took it over

    @property
    def is_quantised(self) -> bool:
        """Whether it has a type that weights are quantised to."""
        return self.dtype.startswith(_QUANTISED)


class Copied(NamedTuple):
    """A tensor's values that were written into memory that was there."""

    t_ns: int
    name: str
    source_dtype: str
    dtype: str
    nbytes: int  # of the source


@dataclass(slots=True)
class OwnCode:
    """The events of one window, sorted."""

    made: list[Made] = field(default_factory=list)
    copies: list[Copied] = field(default_factory=list)
    copied_names: set[str] = field(default_factory=set)  # of tensors that were copied into memory that was there
    _live: dict[int, Made] = field(default_factory=dict)  # by event id
    _mapped: dict[str, list[Made]] = field(default_factory=lambda: defaultdict(list))  # untouched, by name
    _latest: dict[str, list[Made]] = field(default_factory=lambda: defaultdict(list))  # by name

    @classmethod
    def of(cls, events: Iterable[Event], begin_ns: int, end_ns: int) -> OwnCode:
        """Sort the events of a stretch of time; what was released after it was there to its end."""
        found = cls()
        phase = ""
        for event in events:
            if event.kind is EventKind.PHASE:
                phase = event.name
            elif begin_ns <= event.t_ns <= end_ns and event.kind is EventKind.BEGIN:
                found._begin(event, phase)
            elif event.t_ns <= end_ns and event.kind is EventKind.RELEASE and event.id in found._live:
                found._live.pop(event.id).end_ns = event.t_ns
        return found

    def _begin(self, event: Event, phase: str) -> None:
        if event.operation is Operation.ASSIGN:
            self._assign(event.name)
            return
        if event.pool is not Pool.FILE or event.operation is Operation.TOUCH:
            # Whatever reads a mapped tensor's values makes its pages resident.
            for made in self._mapped.pop(event.name, ()):
                if made.end_ns == NEVER:
                    made.touched_ns, made.phase = event.t_ns, phase
        source, dtype = _dtypes(event.detail)
        if event.operation is Operation.MATERIALISE:
            self._make(event, phase, dtype)
        elif event.operation is Operation.COPY:
            self.copies.append(Copied(event.t_ns, event.name, source or dtype, dtype, event.nbytes))
            self.copied_names.add(event.name)

    def _make(self, event: Event, phase: str, dtype: str) -> None:
        kind = "mapped" if event.pool is Pool.FILE else "read" if event.file >= 0 else _IN_PHASE.get(phase, "read")
        made = Made(event.name, kind, phase, event.pool, dtype, event.nbytes, event.file, event.t_ns)
        self.made.append(made)
        self._live[event.id] = made
        self._latest[event.name].append(made)
        if kind == "mapped":
            self._mapped[event.name].append(made)

    def _assign(self, name: str) -> None:
        """The model takes over what was made last under a name and is still there."""
        latest = self._latest[name]
        while latest and latest[-1].end_ns < NEVER:
            latest.pop()
        if latest:
            latest[-1].assigned = True

    @property
    def untouched_bytes(self) -> int:
        """What is mapped to the end and has brought no page into memory."""
        mapped = (made for made in self.made if made.kind == "mapped" and made.end_ns == NEVER)
        return sum(made.nbytes for made in mapped if made.touched_ns == NEVER)

    def stored_dtypes(self) -> dict[str, str]:
        """The type that each tensor has in its file, as far as it was seen being read."""
        stored = {made.name: made.dtype for made in self.made if made.kind in ("read", "mapped")}
        for copy in self.copies:
            stored.setdefault(copy.name, copy.source_dtype)
        return stored

    def is_model(self, made: Made) -> bool:
        """Whether memory is, or was, the loaded model's: taken over, copied into, or nobody's but there to the end."""
        if made.assigned:
            return made.end_ns == NEVER or made.kind in ("read", "mapped")
        if made.kind in ("read", "mapped"):
            return made.name not in self.copied_names and made.end_ns == NEVER
        if made.kind == "built":
            return made.name in self.copied_names or made.end_ns == NEVER
        return made.end_ns == NEVER


def _dtypes(detail: str) -> tuple[str, str]:
    """Type before (empty unless told) and after: ``float16 → float32 [32]``."""
    source, _, dtype = detail.partition(" [")[0].rpartition(_ARROW)
    return source, dtype


def own_rows(code: OwnCode) -> list[LedgerRow]:
    """What each allocation is filed under, in the form of a theory's ledger: `analysis.live.bill` takes its names."""
    stored = code.stored_dtypes()
    rows: list[LedgerRow] = []
    for made in code.made:
        for item, nbytes in _items(code, made, stored):
            rows.append((made.phase, "materialise", made.pool.name.lower(), item, made.name, nbytes))
    return rows


def _items(code: OwnCode, made: Made, stored: dict[str, str]) -> Iterator[tuple[str, int]]:
    if not code.is_model(made):
        if made.kind in ("cast", "merged"):
            yield Item.STAGING, made.nbytes
        else:
            yield Item.DUPLICATE if made.kind != "built" else Item.RANDOM, made.nbytes
        return
    width, needed = BITS.get(made.dtype, 0), BITS.get(stored.get(made.name, made.dtype), 0)
    floor = made.nbytes * needed // width if width and 0 < needed < width else made.nbytes
    yield Item.FLOOR, floor
    if floor < made.nbytes:
        yield Item.UPCAST, made.nbytes - floor


def import_lines(events: Sequence[Event], begin_ns: int, end_ns: int) -> list[BillLine]:
    """What the libraries took that were imported in a stretch of time, by readings around each import."""
    heap = file = 0
    before: Reading | None = None
    for event in events:
        if event.kind is not EventKind.READING or not begin_ns <= event.t_ns <= end_ns:
            continue
        if event.name == "import begins":
            before = event.reading
        elif event.name == "import ends" and before is not None and event.reading is not None:
            heap += event.reading.heap_bytes - before.heap_bytes
            file += event.reading.file_bytes - before.file_bytes
            before = None
    lines = [BillLine(Item.LIBRARIES, "heap", heap), BillLine(Item.LIBRARIES, "file", file)]
    return [line for line in lines if line.nbytes >= _WORTH_A_LINE_BYTES]
