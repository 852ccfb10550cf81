"""The registry of export formats: one file each, one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.exporters import csv, json, torch_snapshot
from meminspect.exporters.base import Exporter

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXPORTERS", "Exporter"]

EXPORTERS: Final[Mapping[str, Exporter]] = {
    exporter.id: exporter for exporter in (json.EXPORTER, csv.EXPORTER, torch_snapshot.EXPORTER)
}
