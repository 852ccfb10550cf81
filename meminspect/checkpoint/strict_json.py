"""JSON from strangers: what Python's parser lets through and RFC 8259 or common sense does not is refused."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from meminspect.checkpoint.reading import open_header
from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["parse_object", "read_object"]

MAX_DIGITS = 20  # a 64-bit number; Python 3.10 needs quadratic time for a long one


def read_object(
    path: Path, max_bytes: int, parse: Callable[[bytes], dict[str, object]] | None = None
) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Args:
        path: the file.
        max_bytes: the most that is read.
        parse: what is to be used instead of `parse_object`, with the same result.

    Raises:
        CheckpointError: the file is larger than `max_bytes`, cannot be read or is not a JSON object.
    """
    with open_header(path) as file:
        if file.nbytes > max_bytes:
            raise file.refuse(
                f"is {format_bytes(file.nbytes)}, more than the {format_bytes(max_bytes)} that such a file may have"
            )
        text = file.read(0, file.nbytes)
        try:
            return (parse or parse_object)(text)
        except ValueError as error:
            raise file.refuse(f"is not the JSON it should be: {error}", "fetch it again") from error


def parse_object(text: bytes) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        ValueError: anything else, with the reason in one printable line: bad UTF-8, a name twice in one object,
            NaN or an infinity, a number beyond 64 bits, deep nesting, half a surrogate pair in a name.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} where an object belongs")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if not "".join(found).isascii():
        odd = next((name for name in found if _has_surrogates(name)), None)
        if odd is not None:
            raise ValueError(f"the name '{shown(odd)}' is not Unicode text")
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name '{shown(twice)}' stands twice in one object")
    return found


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)
