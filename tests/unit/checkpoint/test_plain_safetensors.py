"""Headers spelt as the reference implementation spells them take a short way, which must lead to the same place."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meminspect.checkpoint import safetensors_header
from meminspect.checkpoint.safetensors_header import read_safetensors
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.just("a},")  # as between two entries
SHAPES = st.lists(st.integers(0, 5), max_size=3)
CODES = st.sampled_from(["F16", "F32", "BOOL", "F4", "I64"])
DAMAGE = (b"", b" ", b"0", b"9", b'"', b",", b"}", b"]", b"\\u0041", b"\xff", b"true")
BITS = {"F16": 16, "F32": 32, "BOOL": 8, "F4": 4, "I64": 64}


def written(tensors: dict[str, tuple[str, list[int]]], *, metadata: bool) -> tuple[bytes, int]:
    """A header and the bytes of data that it promises."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    end = 0
    for name, (code, shape) in tensors.items():
        bits = BITS[code]
        for dim in shape:
            bits *= dim
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [end, end + bits // 8]}
        end += bits // 8
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(), end


def outcome(path: Path, text: bytes, data_bytes: int) -> object:
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data_bytes))
    try:
        return read_safetensors(path, path.name)
    except CheckpointError as error:
        return error.message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(NAMES, st.tuples(CODES, SHAPES), max_size=4),
    metadata=st.booleans(),
    piece_bytes=st.sampled_from([0, 100, 1 << 16]),
    data=st.data(),
)
def test_the_short_way_and_the_long_one_agree_on_whole_and_on_damaged_headers(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    tensors: dict[str, tuple[str, list[int]]],
    metadata: bool,
    piece_bytes: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.safetensors"
    text, data_bytes = written(tensors, metadata=metadata)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(1, len(text)))
        replaced = data.draw(st.sampled_from(DAMAGE))
        text = text[:at] + replaced + text[at + data.draw(st.integers(0, 2)) :]

    with monkeypatch.context() as patch:
        patch.setattr(safetensors_header, "_PIECE_BYTES", piece_bytes)
        short = outcome(path, text, data_bytes)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors_header, "_plain_tensors", lambda *_: None)
        long = outcome(path, text, data_bytes)

    assert short == long


def test_a_plain_header_takes_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, data_bytes = written({"a": ("F16", [2, 3]), "b": ("F32", []), "größe": ("BOOL", [0])}, metadata=True)
    monkeypatch.setattr(safetensors_header, "_tensors", lambda *_: pytest.fail("took the long way"))

    part = outcome(tmp_path / "plain.safetensors", text, data_bytes)

    assert isinstance(part, safetensors_header.Part)
    assert {tensor.name: tensor.shape for tensor in part.tensors} == {"größe": (0,), "b": (), "a": (2, 3)}
