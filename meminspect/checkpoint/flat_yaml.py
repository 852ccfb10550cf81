"""The scalars of a YAML file as `yaml.dump` writes a flat one: `name: value`, one a line, and mappings of such.

Not a YAML parser: the worker runs where none is installed, and a model's shape needs no more. Every other line (a
list's item, a comment, what is nested more deeply) is passed over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from meminspect.checkpoint.folders import MAX_CONFIG_BYTES
from meminspect.checkpoint.reading import open_header

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_flat_yaml"]

_LINE: Final = re.compile(r"(  )?([A-Za-z_]\w*):(?: +([^\s#].*?))?\s*")
_WORDS: Final[dict[str, object]] = {"null": None, "~": None, "true": True, "false": False, "{}": {}, "[]": []}
_INTEGER: Final = re.compile(r"[-+]?\d{1,18}")
_FLOAT: Final = re.compile(r"[-+]?\d{1,40}\.\d{0,40}([eE][-+]?\d{1,3})?")


def read_flat_yaml(path: Path) -> dict[str, object]:
    """The names and scalars of a file; a name without one has a mapping, which may be empty.

    Raises:
        CheckpointError: it cannot be read, is no text or is larger than any config.
    """
    with open_header(path) as file:
        if file.nbytes > MAX_CONFIG_BYTES:
            raise file.refuse("is larger than any config")
        try:
            text = file.read(0, file.nbytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise file.refuse("is not text") from error
    found: dict[str, object] = {}
    inner: dict[str, object] | None = None
    for line in filter(None, map(_LINE.fullmatch, text.splitlines())):
        indent, name, value = line.groups()
        if indent is None:
            inner = {} if value is None else None
            found[name] = inner if value is None else _scalar(value)
        elif inner is not None and value is not None:
            inner[name] = _scalar(value)
    return found


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text
