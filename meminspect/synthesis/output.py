"""The file under construction: headers are written, tensors are streamed or, in a sparse one, left as holes."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO

from meminspect.synthesis.crc import crc32_zeros

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from meminspect.synthesis.values import Source

__all__ = ["Output"]


class Output:
    """A new file, written from its start to its end.

    Args:
        path: the file; it must not exist.
        sparse: leave the bytes of tensors out, so that they read as zeros and take no disk.
        advance: told the bytes of each piece of a tensor that is done.
    """

    def __init__(self, path: Path, *, sparse: bool, advance: Callable[[int], None]) -> None:
        self.position = 0
        self._sparse = sparse
        self._advance = advance
        self._file: BinaryIO = path.open("xb")

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._sparse:
                self._file.truncate(self.position)  # a hole at the end has no byte after it that would extend the file
        finally:
            self._file.close()

    def header(self, content: bytes) -> None:
        """Append bytes that describe tensors."""
        self._file.write(content)
        self.position += len(content)

    def tensor(self, source: Source) -> int:
        """Append a tensor and return the CRC-32 of its bytes."""
        self.position += source.nbytes
        if self._sparse:
            self._file.seek(self.position)
            self._advance(source.nbytes)
            return crc32_zeros(source.nbytes)
        crc = 0
        for piece in source.read(0, source.nbytes):
            crc = zlib.crc32(piece, crc)
            self._file.write(piece)
            self._advance(len(piece))
        return crc
