"""`csv`: the timeline, a row a sample, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING

from meminspect.capture.records import Sample
from meminspect.exporters.base import Exporter

if TYPE_CHECKING:
    from meminspect.capture.store import CaptureReader

__all__ = ["EXPORTER"]


def _write(capture: CaptureReader, file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["t_s", *Sample._fields[1:]])
    for sample in capture.samples():
        writer.writerow([f"{sample.t_ns / 1e9:.6f}", *("" if value is None else value for value in sample[1:])])


EXPORTER = Exporter("csv", "the memory timeline, a row a sample", _write)
