"""What in a load costs more than it need, recognised from its events, and the strategy that does without."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from meminspect.analysis.own_code import NEVER
from meminspect.capture.records import Pool
from meminspect.dtypes import BITS
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meminspect.analysis.own_code import Made, OwnCode

__all__ = ["Pattern", "patterns"]

_LEAST_BYTES: Final = 1 << 20
_WHOLE: Final = 0.9  # of all that is copied: held at one moment
_MOST_OF: Final = 0.5


class Pattern(NamedTuple):
    """Something that a load does and need not do."""

    id: str
    words: str
    nbytes: int
    strategy: str  # which does without it

    def document(self) -> dict[str, Any]:
        """As the JSON contract has it."""
        return {"pattern": self.id, "words": self.words, "bytes": self.nbytes, "strategy": self.strategy}


def patterns(code: OwnCode) -> list[Pattern]:
    """The patterns of a load, the costliest first."""
    found = (recognise(code) for recognise in _RECOGNISERS)
    return sorted((one for one in found if one is not None), key=lambda one: -one.nbytes)


def _random_overwritten(code: OwnCode) -> Pattern | None:
    copied = {copy.name: copy.t_ns for copy in code.copies}
    built = [made for made in code.made if made.kind == "built" and copied.get(made.name, -1) > made.begin_ns]
    nbytes = _most_at_once((made, made.begin_ns) for made in built)
    if nbytes < _LEAST_BYTES:
        return None
    words = f"{format_bytes(nbytes)} of random weights were made, only to be overwritten by the checkpoint's"
    return Pattern("random_initialisation_overwritten", words, nbytes, "meta-assign")


def _whole_state_dict(code: OwnCode) -> Pattern | None:
    copied = code.copied_names
    sources = [made for made in code.made if made.kind == "read" and made.pool is not Pool.FILE and made.name in copied]
    held, whole = _most_at_once((made, made.begin_ns) for made in sources), sum(made.nbytes for made in sources)
    if held < _LEAST_BYTES or len(sources) < 2 or held < _WHOLE * whole:
        return None
    words = f"the whole state dict, {format_bytes(held)}, was held beside the model that it was copied into"
    return Pattern("whole_state_dict_held", words, held, "stream")


def _mapping_kept(code: OwnCode) -> Pattern | None:
    made_of = code.copied_names | {made.name for made in code.made if made.kind in ("cast", "merged")}
    mapped = [
        made
        for made in code.made
        if made.kind == "mapped" and made.touched_ns < NEVER and made.name in made_of and not made.assigned
    ]
    held, whole = _most_at_once((made, made.touched_ns) for made in _until_unmapped(mapped)), _sum(mapped)
    if held < _LEAST_BYTES or len(mapped) < 2 or held < _MOST_OF * whole:
        return None
    words = f"{format_bytes(held)} of mapped pages stayed in memory beside the copies that were made of them"
    return Pattern("mapping_kept_while_copying", words, held, "stream")


def _float32_detour(code: OwnCode) -> Pattern | None:
    stored = code.stored_dtypes()
    wide = [
        (made, made.nbytes - made.nbytes * BITS[stored[made.name]] // BITS[made.dtype])
        for made in code.made
        if made.dtype in ("float32", "float64")
        and made.kind in ("built", "cast")
        and made.name in stored
        and 0 < BITS.get(stored[made.name], 0) < BITS[made.dtype]
    ]
    nbytes = _most_at_once(((made, made.begin_ns) for made, _ in wide), {id(made): more for made, more in wide})
    if nbytes < _LEAST_BYTES:
        return None
    narrow = {made.name for made in code.made if made.kind == "cast" and BITS.get(made.dtype, 64) < BITS["float32"]}
    stays = not narrow & {made.name for made, _ in wide}
    types = " and ".join(sorted({stored[made.name] for made, _ in wide}))
    after = "and it stayed so" if stays else "and was made narrow again only afterwards"
    words = f"the checkpoint is {types}, the model was float32, which took {format_bytes(nbytes)} more, {after}"
    return Pattern("float32_detour", words, nbytes, "stream")


def _quantised_after(code: OwnCode) -> Pattern | None:
    quantised = [made for made in code.made if made.is_quantised and made.kind != "mapped" and made.file < 0]
    full = [made for made in code.made if not made.is_quantised and made.kind != "mapped" and code.is_model(made)]
    first = min((made.begin_ns for made in quantised), default=NEVER)
    nbytes = sum(made.nbytes for made in full if made.begin_ns < first <= made.end_ns)
    if _sum(quantised) < _LEAST_BYTES or nbytes < 2 * _sum(quantised):
        return None
    words = f"the model was quantised when {format_bytes(nbytes)} of it were there in full precision"
    return Pattern("quantised_after_loading", words, nbytes, "lazy-quantize")


_RECOGNISERS: Final[tuple[Callable[[OwnCode], Pattern | None], ...]] = (
    _random_overwritten,
    _whole_state_dict,
    _mapping_kept,
    _float32_detour,
    _quantised_after,
)


def _sum(made: Iterable[Made]) -> int:
    return sum(one.nbytes for one in made)


def _most_at_once(begun: Iterable[tuple[Made, int]], sizes: dict[int, int] | None = None) -> int:
    """The most bytes that were there at one moment, of memory that came at the time beside it."""
    changes: list[tuple[int, int]] = []
    for made, begin_ns in begun:
        nbytes = made.nbytes if sizes is None else sizes[id(made)]
        changes += [(begin_ns, nbytes), (made.end_ns, -nbytes)]
    most = total = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most


def _until_unmapped(mapped: list[Made]) -> Iterator[Made]:
    """A mapping's pages go when the last tensor of its file does."""
    last: dict[int, int] = {}
    for made in mapped:
        last[made.file] = max(last.get(made.file, 0), made.end_ns)
    for made in mapped:
        yield dataclasses.replace(made, end_ns=last[made.file])
