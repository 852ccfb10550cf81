"""Hostile and damaged safetensors files and indices: each refused in one line, in little memory."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING

import pytest
from checkpoint_files import f32, refused, safetensors_bytes, small_allocations

from meminspect.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"a": f32(0, 8, 2), "b": f32(8, 12)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(safetensors_bytes(GOOD, bytes(12)))
    return path


def test_given_a_good_file_then_it_is_read(file: Path) -> None:
    assert [tensor.name for tensor in read_checkpoint(file).tensors] == ["a", "b"]


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 100_000_001, 200])
def test_given_an_impossible_header_length_then_nothing_is_allocated(file: Path, length: int) -> None:
    file.write_bytes(struct.pack("<Q", length) + b'{"a":1}' + bytes(100))
    with small_allocations():
        refused(file, "hostile.safetensors", "header")


def test_given_a_sparse_file_of_a_terabyte_then_the_header_limit_holds(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(struct.pack("<Q", 1 << 39) + b"{")
        stream.truncate(1 << 40)
    with small_allocations():
        refused(file, "limit of 100,000,000")


HEADERS: dict[str, tuple[object, str]] = {
    "not JSON": (b"{]", "damaged header"),
    "not UTF-8": (b'{"\xff":1}', "not UTF-8"),
    "array": (b"[]", "not a safetensors file"),
    "trailing text": (b"{}{}", "damaged header"),
    "twice": (b'{"a":{},"a":{}}', "'a' stands twice"),
    "twice inside": (b'{"a":{"dtype":"F32","dtype":"F16"}}', "'dtype' stands twice"),
    "nan": (b'{"a":NaN}', "NaN is not a JSON number"),
    "infinity": (b'{"a":1e999}', "too large"),
    "long number": (b'{"a":' + b"9" * 10_000 + b"}", "digits"),
    "half a pair": (b'{"\\ud800":1}', "not Unicode"),
    "nested": (b'{"a":' + b"[" * 900 + b"1" + b"]" * 900 + b"}", "no description"),
    "nested deeply": (b'{"' + b"a" * 900_000 + b'":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "brackets": (b'{"a":[' + b"[]," * 5_000 + b"1]}", "header of brackets"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "__metadata__"),
    "metadata list": ({"__metadata__": []}, "__metadata__"),
    "no description": ({"a": 3}, "'a' has no description"),
    "no dtype": ({"a": {"shape": [], "data_offsets": [0, 4]}}, "no dtype"),
    "dtype list": ({"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}, "no dtype"),
    "unknown dtype": ({"a": {"dtype": "F\n32", "shape": [], "data_offsets": [0, 4]}}, "unknown dtype 'F\\n32'"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, "no valid shape"),
    "negative dim": ({"a": f32(0, 8, -2)}, "no valid shape"),
    "boolean dim": ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, "no valid shape"),
    "fractional dim": ({"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, "no valid shape"),
    "many dims": ({"a": f32(0, 4, *[1] * 65)}, "no valid shape"),
    "too many elements": ({"a": f32(0, 4, 1 << 40, 1 << 40)}, "more than 2**63"),
    "overflow to zero": ({"a": f32(0, 0, 1 << 63, 4, 0)}, "more than 2**63"),
    "huge empty dim": ({"a": f32(0, 0, 0, 1 << 63)}, "more than 2**63"),
    "no offsets": ({"a": {"dtype": "F32", "shape": []}}, "data_offsets"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4, 8]}}, "data_offsets"),
    "negative offset": ({"a": f32(-4, 0)}, "data_offsets"),
    "reversed offsets": ({"a": f32(4, 0)}, "data_offsets"),
    "size and shape differ": ({"a": f32(0, 12, 2)}, "takes 8 bytes by its shape, 12"),
    "half a byte": ({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, "whole byte"),
    "overlap": ({"a": f32(0, 8, 2), "b": f32(4, 12, 2)}, "'b' overlaps"),
    "same place": ({"a": f32(0, 12, 3), "b": f32(0, 12, 3)}, "'b' overlaps"),
    "hole": ({"a": f32(0, 4), "b": f32(8, 12)}, "'b' leaves a hole"),
    "hole at the start": ({"a": f32(4, 12, 2)}, "'a' leaves a hole"),
    "rest behind": ({"a": f32(0, 8, 2)}, "4 B behind its last tensor"),
    "truncated": ({"a": f32(0, 16, 4)}, "the download is incomplete"),
}


@pytest.mark.parametrize(("header", "words"), HEADERS.values(), ids=HEADERS)
def test_given_a_hostile_header_then_it_is_refused(file: Path, header: object, words: str) -> None:
    file.write_bytes(safetensors_bytes(header, bytes(12)))
    with small_allocations(8 << 20):
        refused(file, "hostile.safetensors: ", words)


def test_given_a_truncated_download_then_both_sizes_are_told(file: Path) -> None:
    file.write_bytes(safetensors_bytes({"a": f32(0, 5 << 29, 5 << 27)}))
    with file.open("r+b") as stream:
        stream.truncate(3 << 29)
    refused(file, "is 1.50 GiB but its header promises 2.50 GiB: the download is incomplete")


def test_given_control_characters_in_names_then_they_are_data_but_never_printed(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202e\n" + "x" * 500
    good = tmp_path / "good.safetensors"
    good.write_bytes(safetensors_bytes({evil: f32(0, 4)}, bytes(4)))
    assert read_checkpoint(good).tensors[0].name == evil
    bad = tmp_path / "bad\x1b[31m\n.safetensors"
    bad.write_bytes(safetensors_bytes({evil: f32(0, 5)}, bytes(5)))
    refused(bad, "bad\\x1b[31m\\n.safetensors", "\\x1b]0;owned\\x07\\u202e\\n")


def index(folder: Path, **content: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    return path


def shard(folder: Path, name: str, **tensors: dict[str, object]) -> None:
    nbytes = 4 * len(tensors)
    (folder / name).write_bytes(safetensors_bytes(tensors, bytes(nbytes)))


@pytest.mark.parametrize(
    "place",
    ["../a.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\\b", "a\nb", 3, None, [[[]]], {"a": 1}],
)
def test_given_a_weight_map_that_points_elsewhere_then_it_is_refused(tmp_path: Path, place: object) -> None:
    index(tmp_path, weight_map={"w": place})
    refused(tmp_path, "model.safetensors.index.json", "places 'w' in", "not the name of a file beside it")


def test_given_a_link_out_of_the_folder_then_it_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "m", tmp_path / "elsewhere"
    folder.mkdir()
    outside.mkdir()
    shard(outside, "a.safetensors", w=f32(0, 4))
    (folder / "a.safetensors").symlink_to("../elsewhere/a.safetensors")
    refused(folder, "a.safetensors", "link out of the checkpoint's folder")
    index(folder, weight_map={"w": "a.safetensors"})
    refused(folder, "a.safetensors", "link out of the checkpoint's folder")
    assert read_checkpoint(folder / "a.safetensors").tensors, "a link that the user names is trusted"


def test_given_a_cache_whose_blobs_are_a_link_then_it_is_refused(tmp_path: Path) -> None:
    snapshot, outside = tmp_path / "repo" / "snapshots" / "1", tmp_path / "elsewhere"
    snapshot.mkdir(parents=True)
    outside.mkdir()
    shard(outside, "hash", w=f32(0, 4))
    (tmp_path / "repo" / "blobs").symlink_to("../elsewhere")
    (snapshot / "a.safetensors").symlink_to("../../blobs/hash")
    refused(snapshot, "a.safetensors", "link out of")


def test_given_a_link_that_loops_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("a.safetensors")
    refused(tmp_path, "a.safetensors")
    refused(tmp_path / "a.safetensors", "a.safetensors", "symbolic links")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "symbolic links")


def test_given_missing_shards_then_they_are_named(tmp_path: Path) -> None:
    names = [f"model-{number:05d}-of-00006.safetensors" for number in range(1, 7)]
    for number, name in enumerate(names):
        if number not in (2, 4):
            shard(tmp_path, name, **{f"w{number}": f32(0, 4)})
    index(tmp_path, weight_map={f"w{number}": name for number, name in enumerate(names)})
    refused(tmp_path, f"2 of 6 shards are missing: {names[2]}, {names[4]}")


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"x": "b.safetensors"}, "places 'x' in b.safetensors, but no shard has it"),
        ({"v": "b.safetensors"}, "places 'v' in b.safetensors, but it is in a.safetensors"),
    ],
)
def test_given_a_tensor_that_is_not_where_the_index_says_then_it_is_named(
    tmp_path: Path, weight_map: dict[str, str], words: str
) -> None:
    shard(tmp_path, "a.safetensors", u=f32(0, 4), v=f32(4, 8))
    shard(tmp_path, "b.safetensors", w=f32(0, 4))
    index(tmp_path, weight_map={"u": "a.safetensors", "w": "b.safetensors"} | weight_map)
    refused(tmp_path, words)


def test_given_a_tensor_in_two_shards_then_it_is_refused(tmp_path: Path) -> None:
    shard(tmp_path, "a.safetensors", w=f32(0, 4))
    shard(tmp_path, "b.safetensors", w=f32(0, 4), v=f32(4, 8))
    index(tmp_path, weight_map={"w": "a.safetensors", "v": "b.safetensors"})
    refused(tmp_path, "'w' stands in a.safetensors and in b.safetensors")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_given_an_index_without_a_weight_map_then_it_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    refused(index(tmp_path, **content), "has no weight_map")


def test_given_an_index_of_a_gigabyte_then_it_is_not_read(tmp_path: Path) -> None:
    path = index(tmp_path)
    os.truncate(path, 1 << 30)
    with small_allocations():
        refused(path, "is 1.00 GiB, more than the 95.37 MiB")


def test_given_a_damaged_config_then_a_warning_says_so(file: Path) -> None:
    config = file.parent / "config.json"
    for content in ("{", "[1]", '{"a": NaN}'):
        config.write_text(content)
        (warning,) = read_checkpoint(file).warnings
        assert warning.isprintable()
        assert "config.json" in warning
