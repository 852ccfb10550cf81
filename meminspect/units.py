"""The only formatter and parser of bytes, times and rates. Binary units unless decimal ones are asked for.

Which of the two is a choice of whoever reads, made once for the process. What a supervisor writes into a capture is in
binary units, whoever will read it.
"""

from __future__ import annotations

import datetime
import re

from meminspect.errors import UsageError

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "format_moment",
    "format_rate",
    "format_share",
    "parse_bytes",
    "parse_count",
    "parse_duration",
    "use_decimal",
    "uses_decimal",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_TOO_MUCH = 2.0**63  # what no file system and no address space holds

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgtpe])(i?))?b?\s*", re.IGNORECASE)
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|min|m|h)?\s*", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LONGEST_S = 10 * 24 * 3600.0  # a time that anybody would wait for; in ms it fits what `poll` takes
_COUNTS = ((10**12, "T"), (10**9, "B"), (10**6, "M"))
_COUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmbt]?)\s*", re.IGNORECASE)


_decimal = False


def use_decimal(chosen: bool) -> None:
    """Write sizes in decimal units from now on, or in binary ones again."""
    global _decimal
    _decimal = chosen


def uses_decimal() -> bool:
    """Whether sizes are written in decimal units."""
    return _decimal


def format_bytes(count: int | float | None) -> str:
    """Format a number of bytes with two decimals from KiB upwards, as ``12.55 GiB``; ``–`` for None."""
    if count is None:
        return "–"
    base, names = (1000, _DECIMAL) if _decimal else (1024, _BINARY)
    value, power = float(count), 0
    while power < len(names) - 1 and round(abs(value), 2 if power else 0) >= base:
        value, power = value / base, power + 1
    return f"{value:.0f} B" if power == 0 else f"{value:.2f} {names[power]}"


def format_rate(bytes_per_s: float | None) -> str:
    """Format a rate in units of bytes per second; ``–`` for None."""
    return "–" if bytes_per_s is None else f"{format_bytes(bytes_per_s)}/s"


def format_duration(seconds: float | None, *, like: float | None = None) -> str:
    """Format a duration: ``850 µs``, ``12.3 ms``, ``4.56 s``, ``2:05 min``; ``–`` for None.

    Args:
        seconds: the duration.
        like: another one, whose unit it is to be written in, so that both can be compared.
    """
    if seconds is None:
        return "–"
    scale = seconds if like is None else like
    if round(scale * 1e6) < 1000:
        return f"{seconds * 1e6:.0f} µs"
    if round(scale * 1e3, 1) < 1000:
        return f"{seconds * 1e3:.1f} ms"
    if round(scale, 2) < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"


def format_share(fraction: float) -> str:
    """Format a fraction of 1 in whole percents, where 0 and 100 are said of nothing and of everything only."""
    if 0 < fraction < 0.01:
        return "< 1 %"
    return f"{min(int(100 * fraction), 100)} %"


def format_moment(iso: object) -> str:
    """Format a moment in ISO 8601 as local time to the minute, ``2026-11-24 15:04``; ``–`` for what is none."""
    try:
        return datetime.datetime.fromisoformat(str(iso)).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # the latter where the clock's zone knows no such year
        return "–"


def format_count(count: int) -> str:
    """Format a count of things, as parameters: ``6.74 B``, ``124.44 M``, ``512``."""
    if count < 10**6:
        return f"{count:,}"
    size, name = next((size, name) for size, name in _COUNTS if round(count / size, 2) >= 1)
    return f"{count / size:.2f} {name}"


def parse_bytes(text: str) -> int:
    """Parse ``8GiB``, ``8G``, ``8GB``, ``1.5 gib`` or plain bytes; ``iB`` and a bare letter are binary, ``B`` decimal.

    Raises:
        UsageError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is not a size", "write it like 8GiB, 512MiB or 16GB")
    number, prefix, binary = match.groups()
    power = " kmgtpe".index(prefix.lower()) if prefix else 0
    base = 1000 if prefix and not binary and text.strip()[-1] in "bB" else 1024
    return _whole(text, number, base**power)


def parse_count(text: str) -> int:
    """Parse a parameter count: ``1.3B``, ``124M``, ``7e9`` is not one.

    Raises:
        UsageError: the text is not a count.
    """
    match = _COUNT.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is not a count", "write it like 1.3B, 124M or 7000000000")
    number, prefix = match.groups()
    return _whole(text, number, {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}[prefix.lower()])


def parse_duration(text: str) -> float:
    """Parse ``90s``, ``1.5 min``, ``1h``, ``250ms`` or plain seconds.

    Raises:
        UsageError: the text is not a time, or one that is over at once or never.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is not a time", "write it like 90s, 10min or 1h")
    number, unit = match.groups()
    seconds = float(number) * _SECONDS[(unit or "s").lower()]
    if seconds < 0.001:
        raise UsageError(f"'{text}' leaves a run no time", "write it like 90s, 10min or 1h")
    if seconds > _LONGEST_S:
        raise UsageError(f"'{text[:40]}' is longer than 10 days", "leave it out for no limit")
    return seconds


def _whole(text: str, number: str, factor: int) -> int:
    value = int(number) * factor if number.isdecimal() else float(number) * factor
    if factor == 1 and value != int(value):
        raise UsageError(f"'{text}' is not a whole number", "is its unit missing?")
    if value >= _TOO_MUCH:
        raise UsageError(f"'{text[:40]}' is beyond all measure")
    return int(value)
