"""The history of a device's allocator as torch's own tools read it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError
from meminspect.exporters import EXPORTERS
from meminspect.exporters.files import write_file

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT = {"device": 0, "address": 1 << 40, "segment_pool_id": (0, 1), "blocks": [{"size": 512, "state": "inactive"}]}
ENTRY = {"action": "alloc", "addr": 1 << 40, "size": 512, "user_metadata": "layers.0.größe"}
HISTORY = {"segments": [SEGMENT], "device_traces": [[ENTRY]], "allocator_settings": {}}


def exported(capture: Path, history: object, out: Path) -> None:
    writer = CaptureWriter(capture, 0)
    if history is not None:
        writer.fact("allocator_history", history)
    writer.close()
    with CaptureReader(capture) as reader:
        write_file(EXPORTERS["torch-snapshot"], reader, out)


def test_given_a_history_when_exported_then_it_is_what_torch_had_given(tmp_path: Path) -> None:
    exported(tmp_path / "run.meminspect", HISTORY, tmp_path / "snapshot.pickle")

    raw = (tmp_path / "snapshot.pickle").read_bytes()
    assert pickle.loads(raw) == HISTORY  # noqa: S301 - our own
    assert raw[:2] == b"\x80\x04", "the viewer in the browser reads no later protocol"


def test_given_a_run_without_a_history_when_exported_then_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no history of a device's allocator") as caught:
        exported(tmp_path / "run.meminspect", None, tmp_path / "out")

    assert "--allocator-history" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
