"""What a synthesised tensor holds: any range of its bytes, on demand, from the seed and its name alone.

Weights are noise with magnitudes in [2⁻⁷, 2⁻⁵): random bits under a mask that pins the exponent. Drawing random bits
is several times slower than a disk, so a tensor's chunk is a short *stamp* drawn for it alone, then a window at a
place of its own into one shared pool of noise. A copy that lands in the wrong place or tensor is therefore seen.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import struct
from typing import TYPE_CHECKING, Protocol

from meminspect.dtypes import BITS, FLOATING, bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHUNK", "DTYPES", "CausalMask", "Noise", "NoisePool", "Repeated", "Source", "Table", "Zeros"]

CHUNK = 1 << 20  # bytes of one window, and the most that a source yields at once
_STAMP = 1 << 12
_POOL_CHUNKS = 9

# The bits that stay random (sign, the exponent's lowest bit, mantissa) and the exponent that is set, per element.
_MASKS = {
    "float64": (0x801FFFFFFFFFFFFF, 0x3F80000000000000),
    "float32": (0x80FFFFFF, 0x3C000000),
    "bfloat16": (0x80FF, 0x3C00),
    "float16": (0x87FF, 0x2000),
    "float8_e4m3fn": (0x8F, 0x00),  # exponent 0 is subnormal here: [0, 2⁻⁵)
    "float8_e5m2": (0x87, 0x20),
}
_ONES = {
    "float64": 0x3FF0000000000000, "float32": 0x3F800000, "bfloat16": 0x3F80, "float16": 0x3C00,
    "float8_e4m3fn": 0x38, "float8_e5m2": 0x3C,
}  # fmt: skip

DTYPES = tuple(_MASKS)  # the element types that a checkpoint can be synthesised in


class Source(Protocol):
    """The bytes of one tensor, row-major and little-endian."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """Yield the bytes from `start` up to `stop` in pieces of at most CHUNK."""


def _random(*key: object) -> random.Random:
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest, "little"))  # noqa: S311 - values to recognise, not secrets


@functools.lru_cache(maxsize=32)
def _whole_masks(dtype: str, elements: int) -> tuple[int, int]:
    keep, fixed = (bits.to_bytes(BITS[dtype] // 8, "little") * elements for bits in _MASKS[dtype])
    return int.from_bytes(keep, "little"), int.from_bytes(fixed, "little")


def _weights(generator: random.Random, dtype: str, elements: int) -> bytes:
    nbytes = bytes_of(dtype, elements)
    keep, fixed = _whole_masks(dtype, elements)
    return (generator.getrandbits(8 * nbytes) & keep | fixed).to_bytes(nbytes, "little")


class NoisePool:
    """The noise that all tensors of one dtype share; drawn when a tensor larger than a stamp first asks."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.seed = seed
        self.dtype = dtype

    @functools.cached_property
    def view(self) -> memoryview:
        """Random elements, `_POOL_CHUNKS` chunks of them."""
        generator, pool = _random(self.seed, "pool", self.dtype), bytearray()
        for _ in range(_POOL_CHUNKS):  # piecewise, since the long integers take a multiple of the bytes
            pool += _weights(generator, self.dtype, CHUNK * 8 // BITS[self.dtype])
        return memoryview(pool).toreadonly()


class Noise:
    """Random weights of one tensor."""

    def __init__(self, name: str, elements: int, pool: NoisePool) -> None:
        self.nbytes = bytes_of(pool.dtype, elements)
        self._name = name
        self._pool = pool
        self._current: tuple[int, bytes, int] = (-1, b"", 0)  # chunk, its stamp, its window's place in the pool

    def _chunk(self, index: int) -> tuple[bytes, int]:
        if self._current[0] != index:
            # A power of two elements keeps the number of different masks, which are as long as the stamp, small.
            generator = _random(self._pool.seed, self._name, self._pool.dtype, index)
            left = min(self.nbytes - index * CHUNK, _STAMP)
            stamp = _weights(generator, self._pool.dtype, _power_of_two(left * 8 // BITS[self._pool.dtype]))
            place = 8 * generator.randrange((_POOL_CHUNKS - 1) * CHUNK // 8)
            self._current = (index, stamp[:left], place)
        return self._current[1:]

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See Source."""
        while start < stop:
            index, offset = divmod(start, CHUNK)
            end = min(offset + stop - start, CHUNK)
            stamp, place = self._chunk(index)
            if offset < len(stamp):
                yield stamp[offset:end]
            if end > len(stamp):
                yield self._pool.view[place + max(offset, len(stamp)) : place + end]
            start += end - offset


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


class Repeated:
    """One element over and over: the scales of norms, and whatever is no floating weight."""

    def __init__(self, dtype: str, elements: int, *, one: bool) -> None:
        self.nbytes = bytes_of(dtype, elements)
        size = BITS[dtype] // 8
        self._chunk = element(dtype, one=one) * (min(CHUNK, max(self.nbytes, 1)) // size)

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See Source."""
        view = memoryview(self._chunk)
        while start < stop:
            offset = start % len(view)
            end = min(offset + stop - start, len(view))
            yield view[offset:end]
            start += end - offset


class CausalMask:
    """A square triangle of ones, once for each leading dimension: above the diagonal, or on it and below."""

    def __init__(self, dtype: str, shape: tuple[int, ...], *, above: bool) -> None:
        self.nbytes = bytes_of(dtype, math.prod(shape))
        self._width = shape[-1]
        self._size = BITS[dtype] // 8
        lower, upper = element(dtype, one=not above), element(dtype, one=above)
        # Every row is a window of this one: `row` + 1 elements from its left half, the others from its right half.
        self._row = lower * self._width + upper * self._width

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See Source."""
        view, row_bytes = memoryview(self._row), self._width * self._size
        while start < stop:
            row, offset = divmod(start, row_bytes)
            end = min(offset + stop - start, row_bytes, offset + CHUNK)
            shift = (self._width - row % self._width - 1) * self._size
            yield view[shift + offset : shift + end]
            start += end - offset


class Table:
    """A few numbers worked out beforehand."""

    def __init__(self, content: bytes) -> None:
        self.nbytes = len(content)
        self._content = content

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See Source."""
        yield self._content[start:stop]


class Zeros:
    """The content of a hole; the writer seeks over it, so nothing is ever read."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """See Source."""
        for at in range(start, stop, CHUNK):
            yield bytes(min(CHUNK, stop - at))


def element(dtype: str, *, one: bool) -> bytes:
    """Return 0 or 1 as one element of `dtype`."""
    number = (_ONES[dtype] if dtype in FLOATING else 1) if one else 0
    return number.to_bytes(BITS[dtype] // 8, "little")


def encode(numbers: list[float], dtype: str) -> bytes:
    """Encode numbers as float64, float32, float16 or bfloat16, rounding half to even."""
    if dtype == "bfloat16":
        words = [word for (word,) in struct.iter_unpack("<I", encode(numbers, "float32"))]
        return struct.pack(f"<{len(words)}H", *((word + 0x7FFF + (word >> 16 & 1)) >> 16 for word in words))
    code = {"float64": "d", "float32": "f", "float16": "e"}[dtype]
    return struct.pack(f"<{len(numbers)}{code}", *numbers)
