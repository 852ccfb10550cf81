"""`json`: the whole run as one document: result, theory's ledger, samples, events and log."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

from meminspect.analysis.run import run_document
from meminspect.capture.records import DeviceSample, Sample
from meminspect.exporters.base import Exporter

if TYPE_CHECKING:
    from meminspect.capture.records import Event
    from meminspect.capture.store import CaptureReader

__all__ = ["EXPORTER"]

_SCHEMA = "meminspect.capture/1"


def _write(capture: CaptureReader, file: IO[str]) -> None:
    document = {
        "schema": _SCHEMA,
        "spec": capture.fact("spec"),
        "started": capture.fact("started"),
        "checkpoint": capture.fact("checkpoint"),
        "machine": capture.fact("machine"),
        "environment": capture.fact("environment"),
        "recipe": capture.fact("recipe"),
        "run": run_document(capture),
        "ledger": [
            dict(zip(("phase", "operation", "pool", "item", "tensor", "bytes"), row, strict=True))
            for row in capture.ledger()
        ],
        "samples": {
            "columns": list(Sample._fields),
            "rows": [list(sample) for sample in capture.samples()],
        },
        "device_samples": {
            "columns": list(DeviceSample._fields),
            "rows": [list(sample) for sample in capture.device_samples()],
        },
        "events": [_event(event) for _, event in capture.events()],
        "log": [line._asdict() for line in capture.log()],
    }
    json.dump(document, file, indent=1)
    file.write("\n")


def _event(event: Event) -> dict[str, Any]:
    return {
        "t_ns": event.t_ns,
        "kind": event.kind.name.lower(),
        "operation": event.operation.name.lower(),
        "pool": event.pool.name.lower(),
        "id": event.id,
        "bytes": event.nbytes,
        "file": None if event.file < 0 else event.file,
        "file_offset": None if event.offset < 0 else event.offset,
        "exact": event.exact,
        "reading": None if event.reading is None else event.reading._asdict(),
        "name": event.name,
        "detail": event.detail,
    }


EXPORTER = Exporter("json", "everything in one document", _write)
