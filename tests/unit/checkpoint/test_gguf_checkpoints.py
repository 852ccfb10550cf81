"""GGUF headers against the reference writer, and ones that no writer makes."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import pytest
from checkpoint_files import refused, small_allocations
from hypothesis import given
from test_fuzz_checkpoints import FUZZ, mutated, read_or_refuse

from meminspect.checkpoint import read_checkpoint
from meminspect.dtypes import GGML_BLOCKS, GGML_TYPES, bytes_of
from meminspect.stream import load

if TYPE_CHECKING:
    from pathlib import Path

F32, F16, Q4_0, Q6_K, BF16 = 0, 1, 2, 14, 30
U32, STRING, ARRAY, U64 = 4, 8, 9, 10
Tensor = tuple[str, tuple[int, ...], int, int]  # name, shape as torch has it, type, offset


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def value(key: str, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def gguf_bytes(
    *tensors: Tensor, values: tuple[bytes, ...] = (), data: int = 256, version: int = 3, counts: Any = None,
    alignment: int = 32,
) -> bytes:  # fmt: skip
    header = b"GGUF" + struct.pack("<I2Q", version, *(counts or (len(tensors), len(values)))) + b"".join(values)
    for name, shape, kind, offset in tensors:
        header += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        header += struct.pack("<IQ", kind, offset)
    return header + bytes(-len(header) % alignment) + bytes(data)


SOUND: tuple[Tensor, ...] = (("b", (2, 32), Q4_0, 64), ("a", (4, 4), F32, 0), ("c", (), F16, 128))
VALUES = (
    value("general.architecture", STRING, text("llama")),
    value("tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("") + text(b"\xff")),
    value("scores", ARRAY, struct.pack("<IQ", U32, 5) + bytes(20)),
)


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    (folder / name).write_bytes(content)
    return folder


def test_given_a_file_then_shapes_types_and_places_are_read(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path, gguf_bytes(*SOUND, values=VALUES)))

    content = (tmp_path / "model.gguf").read_bytes()
    data = len(content) - 256
    assert checkpoint.layout == "gguf"
    assert checkpoint.quantisation == "GGUF blocks of q4_0"
    assert [(t.name, t.dtype, t.shape, t.file_offset - data, t.nbytes) for t in checkpoint.tensors] == [
        ("a", "float32", (4, 4), 0, 64), ("b", "q4_0", (2, 32), 64, 36), ("c", "float16", (), 128, 2),
    ]  # fmt: skip


def test_given_an_alignment_of_its_own_then_the_data_begins_there(tmp_path: Path) -> None:
    values = (value("general.alignment", U32, struct.pack("<I", 128)),)
    content = gguf_bytes(("a", (4,), F32, 128), values=values, alignment=128)
    (tensor,) = read_checkpoint(write(tmp_path, content)).tensors
    assert tensor.file_offset == len(content) - 256 + 128


def test_given_the_parts_of_a_split_file_then_all_are_read_whichever_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path, gguf_bytes((f"w{number}", (4,), F32, 0)), f"m-0000{number}-of-00002.gguf")
    for named in (tmp_path, tmp_path / "m-00002-of-00002.gguf"):
        assert [tensor.name for tensor in read_checkpoint(named).tensors] == ["w1", "w2"]
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    refused(tmp_path, "lacks 1 of the 2 parts")


def test_given_a_first_part_without_tensors_then_those_of_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, gguf_bytes(values=VALUES[:1], data=0, alignment=1), "m-00001-of-00002.gguf")
    write(tmp_path, gguf_bytes(("w", (4,), F32, 0)), "m-00002-of-00002.gguf")
    assert [tensor.name for tensor in read_checkpoint(tmp_path).tensors] == ["w"]


def test_given_several_files_then_one_has_to_be_named(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        write(tmp_path, gguf_bytes(*SOUND), name)
    assert "--ckpt" in refused(tmp_path, "2 checkpoints").hint
    assert read_checkpoint(tmp_path / "q8.gguf").tensors


def test_given_a_blob_named_by_its_hash_then_its_content_says_what_it_is(tmp_path: Path) -> None:
    assert read_checkpoint(write(tmp_path, gguf_bytes(*SOUND), "sha256-0f3c") / "sha256-0f3c").layout == "gguf"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gguf_bytes(*SOUND, version=1), "version 1"),
        (gguf_bytes(*SOUND, version=3 << 24), "big-endian"),
        (gguf_bytes(*SOUND)[:40], "incomplete"),
        (gguf_bytes(*SOUND, data=100), "that its header promises"),
        (gguf_bytes(*SOUND, counts=(1 << 60, 0)), "cannot be right"),
        (gguf_bytes(*SOUND, counts=(900_000, 0)), "incomplete"),
        (gguf_bytes(("a", (1 << 62, 4), F32, 0)), "2**63 elements"),
        (gguf_bytes(("a", (4, 33), Q4_0, 0)), "rows of 33 in blocks of 32"),
        (gguf_bytes(("a", (4,), 77, 0)), "unknown type 77"),
        (gguf_bytes(("a", (1, 1, 1, 1, 1), F32, 0)), "5 dimensions"),
        (gguf_bytes(("a", (4,), F32, 0), ("a", (4,), F32, 32)), "twice"),
        (gguf_bytes(("a", (4,), F32, 0), ("b", (4,), F32, 0)), "impossible offset"),
        (gguf_bytes(("a", (4,), F32, 8)), "impossible offset"),
        (gguf_bytes(values=(value("general.alignment", U32, bytes(4)),)), "alignment of 0"),
        (gguf_bytes(values=(value("k", 99, b""),)), "unknown type 99"),
        (gguf_bytes(values=(VALUES[0], VALUES[0])), "twice"),
        (gguf_bytes(values=(value("k", STRING, struct.pack("<Q", 1 << 62)),)), "incomplete"),
        (gguf_bytes(values=(value("k", ARRAY, struct.pack("<IQ", U64, 1 << 61)),)), "incomplete"),
        (gguf_bytes(values=(value("k", ARRAY, struct.pack("<IQ", STRING, 1 << 61)),)), "arrays of"),
        (gguf_bytes(values=(value("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9),)), "unknown type 9"),
        (b"GGUF", "not a GGUF file"),
        (b"", "is an empty file"),
        (gguf_bytes(values=VALUES[:1], data=0, alignment=1), "holds no tensors"),  # as llama.cpp keeps vocabularies
    ],
    ids=itertools.count(),
)
def test_given_what_no_writer_makes_then_it_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with small_allocations(4 << 20):
        refused(write(tmp_path, content), words)


VALID = gguf_bytes(*SOUND, values=VALUES)


@FUZZ
@given(content=mutated(VALID))
def test_given_a_mutated_file_then_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated-gguf"
    folder.mkdir(exist_ok=True)
    read_or_refuse(write(folder, content) / "model.gguf")


class TestReference:
    def test_the_sizes_of_blocks_are_the_packages(self) -> None:
        gguf = pytest.importorskip("gguf")
        for kind, (elements, nbytes) in gguf.GGML_QUANT_SIZES.items():
            if int(kind) in GGML_TYPES:
                assert bytes_of(GGML_TYPES[int(kind)], elements) == nbytes, kind
        assert set(GGML_BLOCKS) < set(GGML_TYPES.values())

    def test_of_every_type_that_the_package_knows_shape_and_place_are_the_packages(self, tmp_path: Path) -> None:
        gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        for kind, (_, nbytes) in gguf.GGML_QUANT_SIZES.items():
            writer.add_tensor(f"{kind.name}.weight", numpy.zeros((3, 2 * nbytes), numpy.uint8), raw_dtype=kind)
        finish(writer)
        assert len(read_checkpoint(tmp_path).tensors) == len(gguf.GGML_QUANT_SIZES)
        assert ours(tmp_path) == theirs(tmp_path / "m.gguf")

    def test_values_of_every_kind_are_passed_over(self, tmp_path: Path) -> None:
        gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        for kind in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"):
            getattr(writer, f"add_{kind}")(f"a.{kind}", 7)
        writer.add_bool("a.bool", True)
        writer.add_string("a.long", "ü" * 100_000)
        writer.add_token_list([f"token {number}" for number in range(32_000)])
        writer.add_token_scores([0.5] * 32)
        writer.add_array("a.nested", [[1, 2], [3]])
        writer.add_array("a.flags", [True, False])
        writer.add_tensor("a", numpy.ones((2, 3), numpy.float32))
        writer.add_tensor("b", numpy.ones((2, 2, 2, 5), numpy.float16))
        finish(writer)
        assert ours(tmp_path) == theirs(tmp_path / "m.gguf")

    @pytest.mark.parametrize("alignment", [8, 64, 4096])
    def test_at_another_alignment_everything_is_where_the_package_finds_it(
        self, tmp_path: Path, alignment: int
    ) -> None:
        gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        writer.add_custom_alignment(alignment)
        for length in (3, 5, 700):
            writer.add_tensor(f"of {length}", numpy.ones(length, numpy.float32))
        finish(writer)
        assert ours(tmp_path) == theirs(tmp_path / "m.gguf")

    def test_the_parts_of_a_split_file_are_read_and_a_cut_one_is_refused(self, tmp_path: Path) -> None:
        gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
        for number in range(5):
            writer.add_tensor(f"blk.{number}.weight", numpy.full((4, 32), number, numpy.float16))
        finish(writer)
        parts = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]

        assert ours(tmp_path) == ours(parts[1]) == theirs(*parts)
        parts[2].write_bytes(parts[2].read_bytes()[:-64])
        refused(tmp_path, "that its header promises")

    def test_the_tensors_that_torch_has_are_loaded_as_the_package_hands_them_out(self, tmp_path: Path) -> None:
        gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        values = numpy.random.default_rng(0).standard_normal((64, 33)).astype(numpy.float32)
        for kind in (numpy.float32, numpy.float16, numpy.float64, numpy.int8, numpy.int32, numpy.int64):
            writer.add_tensor(kind.__name__, (9 * values).astype(kind))
        finish(writer)

        loaded = load(None, tmp_path)

        stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
        assert loaded.keys() == stored.keys()
        assert all(numpy.array_equal(loaded[name].numpy(), data) for name, data in stored.items())


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(path: Path) -> set[tuple[Any, ...]]:
    """Of each tensor: file, name, shape, offset, bytes."""
    checkpoint = read_checkpoint(path)
    names = [file.name for file in checkpoint.files]
    return {(names[t.storage.file], t.name, t.shape, t.file_offset, t.nbytes) for t in checkpoint.tensors}


def theirs(*files: Path) -> set[tuple[Any, ...]]:
    gguf = pytest.importorskip("gguf")
    return {
        (file.name, t.name, tuple(map(int, t.shape))[::-1], int(t.data_offset), int(t.n_bytes))
        for file in files
        for t in gguf.GGUFReader(file).tensors
    }
