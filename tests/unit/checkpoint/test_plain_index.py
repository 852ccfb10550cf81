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
    ).flatmap(lambda text: st.just(text) | mutated(text)) | mutated(INDEX)
)  # fmt: skip
def test_the_short_way_and_the_long_one_agree_on_whole_and_on_damaged_indices(text: bytes) -> None:
    assert outcome(parse_index, text) == outcome(parse_object, text)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_index_as_it_is_written_takes_the_short_way(monkeypatch: pytest.MonkeyPatch, indent: int | None) -> None:
    written = {"metadata": {"total_size": 3}, "weight_map": {"größe": "a.safetensors", "b": "a.safetensors"}}
    text = json.dumps(written, indent=indent, ensure_ascii=False).encode()
    seen: list[bytes] = []
    monkeypatch.setattr(plain_index, "parse_object", lambda part: seen.append(part) or parse_object(part))

    assert parse_index(text) == written
    assert len(seen) == 1
    assert b"weight_map" not in seen[0]
