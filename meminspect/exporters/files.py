"""Writing an export into a file: whole, or not at all."""

from __future__ import annotations

import errno
import os
from typing import IO, TYPE_CHECKING, Any

from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.capture.store import CaptureReader
    from meminspect.exporters.base import Exporter

__all__ = ["write_file"]


def write_file(exporter: Exporter, reader: CaptureReader, out: Path) -> None:
    """Write a capture in another format, replacing what is there.

    Raises:
        CaptureError: the file cannot be written.
    """
    try:
        _write(exporter, reader, out)
    except OSError as error:
        raise CaptureError(f"cannot write {out}: {error.strerror}", "name another file") from error


def _write(exporter: Exporter, reader: CaptureReader, out: Path) -> None:
    try:
        out = out.resolve()  # what a link leads to, not the link
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    if out.exists() and not out.is_file():  # a device or a pipe: /dev/stdout is to be written to, not replaced
        with _opened(exporter, out, "w") as file:
            exporter.write(reader, file)
        return
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    with _opened(exporter, partial, "x") as file:  # what is there is not ours
        try:
            exporter.write(reader, file)
            file.close()  # a full disk may say so only now
            partial.replace(out)  # a reader of `out` sees the old file or the new one, never half of one
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _opened(exporter: Exporter, path: Path, mode: str) -> IO[Any]:
    return path.open(mode, encoding="utf-8", newline="") if exporter.is_text else path.open(f"{mode}b")
