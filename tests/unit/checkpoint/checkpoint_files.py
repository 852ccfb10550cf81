"""Writers of small and hostile safetensors files, and what every refusal must satisfy."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from meminspect.checkpoint import read_checkpoint
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_PEAK_BYTES = 1 << 20


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file of any header: text as it is, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def f32(begin: int, end: int, *shape: int) -> dict[str, object]:
    """A tensor's description in a safetensors header."""
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def refused(path: Path | str, *words: str) -> CheckpointError:
    """Assert that a checkpoint is refused in one printable line that names the file and says these words."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message, hint = caught.value.message, caught.value.hint
    assert message.isprintable()
    assert hint.isprintable()
    assert ": " in message
    assert len(message) < 700
    for word in words:
        assert word in message
    return caught.value


@contextlib.contextmanager
def small_allocations(limit_bytes: int = MAX_PEAK_BYTES) -> Iterator[None]:
    """Assert that what happens inside never holds more than a little memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()
