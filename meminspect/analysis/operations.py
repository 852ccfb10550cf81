"""What was done to which tensor, one row an operation, paired from a run's events as they arrive."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import EventKind, Operation, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meminspect.capture.records import Event

__all__ = ["Operations", "TensorOperation"]

_BASELINE: Final = "baseline"
_ARROW: Final = "→"

_WORDS: Final = {Operation.COPY: "copied", Operation.ASSIGN: "assigned", Operation.TOUCH: "touched"}
_MADE_IN_PHASE: Final = {"build": "built", "merge": "merged", "cast": "cast", "quantise": "quantised"}

# What a type's short name begins with: float16 → f16, float8_e4m3fn → f8e4m3, bfloat16 → bf16.
_SHORT: Final = (("bfloat", "bf"), ("float", "f"), ("complex", "c"), ("quint", "qu"), ("uint", "u"), ("int", "i"))


class TensorOperation(NamedTuple):
    """One operation on one tensor."""

    t_ns: int  # its begin, since the run's start
    phase: str
    word: str  # built, read, mapped, copied, cast, merged, assigned or touched
    tensor: str
    shape: str  # "[4096, 4096]"; empty where no event tells
    dtypes: str  # "f16", or "f16→f32" where the type changes; empty where no event tells
    nbytes: int
    elapsed_ns: int | None  # None while in flight, and for ever where the run died in it
    pool: Pool = Pool.NONE  # where memory came into being; NONE where it was there already


class Operations:
    """Follows one run: feed it every event once, in order.

    Attributes:
        rows: the operations by their begin. It only grows, and a row is only ever replaced by itself with its
            duration, so that another thread may read it by index.
    """

    def __init__(self) -> None:
        self.rows: list[TensorOperation] = []
        self._phase = ""
        self._loading = False
        self._in_flight: dict[int, int] = {}  # event id → row
        self._known: dict[str, tuple[str, str]] = {}  # tensor → shape, type

    def update(self, events: Iterable[Event]) -> None:
        """Take new events into account."""
        for event in events:
            if event.kind is EventKind.BEGIN:
                self._begin(event)
            elif event.kind is EventKind.END:
                self._end(event)
            elif event.kind is EventKind.PHASE:
                self._phase = event.name
            elif event.kind is EventKind.READING and event.name == _BASELINE:
                self._loading = True

    def _begin(self, event: Event) -> None:
        if not self._loading or not event.name:  # a whole file that is mapped is no tensor
            return
        shape, dtypes = self._described(event)
        self._in_flight[event.id] = len(self.rows)
        self.rows.append(
            TensorOperation(
                event.t_ns, self._phase, self._word(event), event.name, shape, dtypes, event.nbytes, None, event.pool
            )
        )

    def _end(self, event: Event) -> None:
        index = self._in_flight.pop(event.id, None)
        if index is not None:
            row = self.rows[index]
            self.rows[index] = row._replace(elapsed_ns=event.t_ns - row.t_ns)

    def _word(self, event: Event) -> str:
        if event.operation is Operation.MATERIALISE:
            return "mapped" if event.pool is Pool.FILE else _MADE_IN_PHASE.get(self._phase, "read")
        return _WORDS.get(event.operation, "")

    def _described(self, event: Event) -> tuple[str, str]:
        """Shape and types; what an event leaves out is as the tensor's last operation left it."""
        known_shape, known_type = self._known.get(event.name, ("", ""))
        if not event.detail:
            return known_shape, known_type
        source, target, shape = _parsed(event.detail)
        if not source and self._phase == "cast":  # which tells only what it makes
            source = known_type
        self._known[event.name] = shape, target
        return shape, target if source in ("", target) else f"{source}{_ARROW}{target}"


@functools.lru_cache(maxsize=4096)  # a model has few shapes, and many tensors of each
def _parsed(detail: str) -> tuple[str, str, str]:
    """Type before (empty unless told), type, and shape: ``float16 → float32 [4096, 4096]``, ``float32 [32]``."""
    types, bracket, dimensions = detail.partition(" [")
    source, _, target = types.rpartition(f" {_ARROW} ")
    return _short(source), _short(target), bracket.lstrip() + dimensions


def _short(dtype: str) -> str:
    """A type's name in a few letters; a short name is its own."""
    for long, short in _SHORT:
        if dtype.startswith(long):
            return (short + dtype[len(long) :]).replace("_", "").removesuffix("fn")
    return dtype
