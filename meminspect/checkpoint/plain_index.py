"""An index spelt as its writers spell it, read name by name.

Python's own parser takes a million names in one go, in which no other thread runs: the app would stand still for it.
"""

from __future__ import annotations

import re

from meminspect.checkpoint.strict_json import parse_object

__all__ = ["parse_index"]

_TEXT = rb'"([^"\\\x00-\x1f]*)"'
_HEAD = re.compile(rb'[ \n]*\{[ \n]*"metadata"[ \n]*:[ \n]*(\{[^{}]*\})[ \n]*,[ \n]*"weight_map"[ \n]*:[ \n]*\{[ \n]*')
_ENTRY = re.compile(rb"%b[ \n]*:[ \n]*%b[ \n]*([,}])[ \n]*" % (_TEXT, _TEXT))


def parse_index(text: bytes) -> dict[str, object]:
    """Parse an index as `parse_object` does.

    Raises:
        ValueError: it is not a JSON object; see there.
    """
    try:
        return _read_plainly(text) or parse_object(text)
    except ValueError:  # in the words of the other one
        return parse_object(text)


def _read_plainly(text: bytes) -> dict[str, object] | None:
    """None for what is spelt in any other way, and for what has a fault."""
    head = _HEAD.match(text)
    if head is None:
        return None
    weight_map: dict[str, str] = {}
    files: dict[bytes, str] = {}  # few, and each the place of many
    count, position, last = 0, head.end(), b""
    for match in _ENTRY.finditer(text, position):
        name, file, last = match.groups()
        if match.start() != position:
            return None
        weight_map[name.decode()] = files.get(file) or files.setdefault(file, file.decode())
        count, position = count + 1, match.end()
        if last == b"}":
            break
    if last != b"}" or text[position:].strip(b" \n") != b"}" or len(weight_map) < count:
        return None
    return {"metadata": parse_object(head[1]), "weight_map": weight_map}
