"""An index spelt as its writers spell it takes a short way, which must lead to the same place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_checkpoints import FUZZ, INDEX, mutated

from meminspect.checkpoint import plain_index
from meminspect.checkpoint.plain_index import parse_index
from meminspect.checkpoint.strict_json import parse_object

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def outcome(parse: Any, text: bytes) -> object:
    try:
        return list(parse(text).items())
    except ValueError as error:
        return str(error)


@FUZZ
@given(
    text=st.builds(
        lambda weight_map, indent, ascii_only: json.dumps(
            {"metadata": {"total_size": 12}, "weight_map": weight_map}, indent=indent, ensure_ascii=ascii_only
        ).encode(),
        st.dictionaries(NAMES, NAMES, max_size=4), st.sampled_from([None, 2]), st.booleans(),
    ).flatmap(lambda text: st.just(text) | mutated(text)) | mutated(INDEX),
    piece_bytes=st.integers(0, 40),
)  # fmt: skip
def test_the_short_way_and_the_long_one_agree_on_whole_and_on_damaged_indices(text: bytes, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_index, "_PIECE_BYTES", piece_bytes)
        short = outcome(parse_index, text)

    assert short == outcome(parse_object, text)


NOT_CUT = {
    "a cut within a name": '{"metadata": {}, "weight_map": {"a\\", \\"b": "c", "d": "e"}}',
    "a cut within an object": '{"metadata": {}, "weight_map": {"a": {"b": "c", "d": "e"}}}',
    "a name in two pieces": '{"metadata": {}, "weight_map": {"a": "b", "a": "c"}}',
    "more behind the map": '{"metadata": {}, "weight_map": {"a": "b", "c": "d"}, "e": "f"}',
    "metadata twice": '{"metadata": {}, "weight_map": {"a": "b", "c": "d"}, "metadata": {}}',
    "a map that ends early": '{"metadata": {}, "weight_map": {"a": "b"}, "c": "d"}}',
    "no end": '{"metadata": {}, "weight_map": {"a": "b", "c": "d"}',
    "nothing behind a comma": '{"metadata": {}, "weight_map": {"a": "b", "c": "d",}}',
}


@pytest.mark.parametrize("text", NOT_CUT.values(), ids=NOT_CUT.keys())
def test_an_index_that_is_cut_where_it_must_not_be_is_read_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(plain_index, "_PIECE_BYTES", 0)

    assert outcome(parse_index, text.encode()) == outcome(parse_object, text.encode())


@pytest.mark.parametrize("indent", [None, 2])
def test_an_index_as_it_is_written_takes_the_short_way(monkeypatch: pytest.MonkeyPatch, indent: int | None) -> None:
    written = {"metadata": {"total_size": 3}, "weight_map": {"größe": "a.safetensors", "b": "a.safetensors"}}
    text = json.dumps(written, indent=indent, ensure_ascii=False).encode()
    seen: list[bytes] = []
    monkeypatch.setattr(plain_index, "_PIECE_BYTES", 0)
    monkeypatch.setattr(plain_index, "parse_object", lambda part: seen.append(part) or parse_object(part))

    assert parse_index(text) == written
    assert text not in seen
