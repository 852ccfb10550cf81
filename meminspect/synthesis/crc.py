"""CRC-32 of runs of zero bytes without touching them, so that a hole in a sparse zip has the right checksum."""

from __future__ import annotations

import functools
import zlib

__all__ = ["crc32_zeros"]

# The CRC-32 polynomial with its bits reflected, as in zlib 1.2.13 crc32.c (POLY).
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31  # x**0: in the reflected representation the highest bit is the lowest power


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials modulo the CRC polynomial (zlib 1.2.13, crc32.c, multmodp)."""
    product, bit = 0, _ONE
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        bit >>= 1
    return product


@functools.lru_cache(maxsize=1024)
def _advance(count: int) -> int:
    """x**(8·count) modulo the polynomial: what `count` zero bytes multiply the register by."""
    power, square = _ONE, 1 << 23  # x**8
    while count:
        if count & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        count >>= 1
    return power


def crc32_zeros(count: int, crc: int = 0) -> int:
    """What `zlib.crc32(bytes(count), crc)` returns, in O(log count) time."""
    if count < 4096:
        return zlib.crc32(bytes(count), crc)
    return _multiply(_advance(count), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
