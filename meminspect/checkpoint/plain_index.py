"""An index read piece by piece.

Python's own parser takes a million names in one go, in which no other thread runs: the app would stand still for it.
"""

from __future__ import annotations

import re
from typing import Final

from meminspect.checkpoint.strict_json import parse_object

__all__ = ["parse_index"]

_PIECE_BYTES: Final = 1 << 16
_HEAD = re.compile(rb'[ \n]*\{[ \n]*"metadata"[ \n]*:[ \n]*(\{[^{}]*\})[ \n]*,[ \n]*"weight_map"[ \n]*:[ \n]*\{[ \n]*')
_BETWEEN = re.compile(rb'",[ \n]*(?=")')  # the end of an entry of the map and the begin of the next


def parse_index(text: bytes) -> dict[str, object]:
    """Parse an index as `parse_object` does.

    Raises:
        ValueError: it is not a JSON object; see there.
    """
    try:
        return _read_in_pieces(text) or parse_object(text)
    except ValueError:  # in the words of the other one
        return parse_object(text)


def _read_in_pieces(text: bytes) -> dict[str, object] | None:
    """None for what does not begin and end as its writers have it, and for a name that stands twice."""
    head = _HEAD.match(text)
    if head is None:
        return None
    weight_map: dict[str, object] = {}
    count, position = 0, head.end()
    while (between := _BETWEEN.search(text, position + _PIECE_BYTES)) is not None:
        # A piece that is an object within braces is some entries of one: no other cut of a string is.
        piece = parse_object(b'{%b"}' % text[position : between.start()])
        weight_map.update(piece)
        count, position = count + len(piece), between.end()
    rest = parse_object(b'{"weight_map":{%b' % text[position:])
    last = rest.pop("weight_map")
    if rest or not isinstance(last, dict):
        return None
    weight_map.update(last)
    if len(weight_map) < count + len(last):
        return None
    return {"metadata": parse_object(head[1]), "weight_map": weight_map}
