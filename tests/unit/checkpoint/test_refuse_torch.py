"""Hostile and damaged torch archives: nothing is executed, nothing large is allocated, one line says what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from checkpoint_archives import Archive, Entry, archive_of, number, state_dict, storage, tensor, text, tuple_of
from checkpoint_files import refused, small_allocations

from meminspect.checkpoint import read_checkpoint, torch_pickle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PICKLE = state_dict(w=tensor())
DATA = bytes(16)
FULL = (1 << 32) - 1  # "see the zip64 field"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(archive_of(PICKLE, _0=DATA))
    return path


def entries(*more: Entry, pickle_bytes: bytes = PICKLE) -> list[Entry]:
    return [Entry("a/data.pkl", pickle_bytes), Entry("a/data/0", DATA), *more]


class TestPickle:
    def test_given_an_honest_archive_by_hand_then_it_is_read(self, file: Path) -> None:
        (found,) = read_checkpoint(file).tensors
        assert (found.name, found.shape, found.storage.nbytes) == ("w", (4,), 16)

    def test_given_code_then_it_is_named_and_not_executed(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save({"w": torch.ones(1), "x": Evil()}, tmp_path / "consolidated.00.pth")
        refused(tmp_path, "consolidated.00.pth", "refers to posix.mkdir", "not executed")
        assert not (tmp_path / "owned").exists()

    def test_given_a_whole_module_then_it_is_called_that(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(1, 1), tmp_path / "consolidated.00.pth")
        assert "state_dict()" in refused(tmp_path, "whole pickled model (torch.nn.modules.linear.Linear)").hint

    def test_given_a_whole_module_in_an_entry_then_the_entry_is_named(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3, "model": torch.nn.Linear(1, 1)}, tmp_path / "consolidated.00.pth")
        error = refused(tmp_path, "epoch (int), model (torch.nn.modules.linear.Linear)", "executes none of it")
        assert "['model'].state_dict()" in error.hint

    def test_given_slices_that_keep_their_state_dicts_elsewhere_then_they_are_refused(self, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "consolidated.00.pth")
        torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "consolidated.01.pth")
        refused(tmp_path, "consolidated.01.pth", "(entry model) than consolidated.00.pth (at the top)")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (lambda: torch.ones(2), "is no state dict but a single value: tensor"),
            (lambda: [torch.ones(2)], "is no state dict but a single value: list"),
            (lambda: 3, "is no state dict but a single value: int"),
            (lambda: {"a": 3, 4: "x"}, "holds no tensors but a (int), 4 (str)"),
            (lambda: {"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "_rebuild_qtensor"),
            (lambda: {"s": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_given_no_plain_state_dict_then_it_says_what_it_is(
        self, tmp_path: Path, value: Callable[[], object], words: str
    ) -> None:
        torch.save(value(), tmp_path / "consolidated.00.pth")
        refused(tmp_path, words)

    def test_given_another_pickle_protocol_then_it_is_named(self, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "consolidated.00.pth", pickle_protocol=4)
        refused(tmp_path, "pickle of protocol 4")

    PICKLES: dict[str, bytes] = {  # noqa: RUF012 (a table)
        "empty": b"",
        "no stop": PICKLE[:-1],
        "only stop": b".",
        "memo bomb": b"\x80\x02Nr" + struct.pack("<I", (1 << 31) - 1) + b".",
        "recall of nothing": b"\x80\x02h\x05.",
        "long text": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"abc.",
        "long text of 8 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
        "bytes": b"\x80\x03B" + struct.pack("<I", (1 << 32) - 1) + b".",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
        "long number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
        "deep marks": b"\x80\x02" + b"(" * 100_000 + b".",
        "deep tuples": b"\x80\x02N" + b"\x85" * 200_000 + b".",
        "wide tuples": b"\x80\x02)" + b"q\0h\0\x86" * 50_000 + b".",
        "key of nested tuples": b"\x80\x02})" + b"q\0h\0\x86" * 200 + b"K\x01s.",
        "text of half a pair": b"\x80\x02X\x03\0\0\0\xed\xa0\x80.",
        "endless global": b"\x80\x02c" + b"a" * 1000,
        "global with escapes": b"\x80\x02c\x1b[31m\nx\x1b\n.",
        "builtin eval": b"\x80\x02c__builtin__\neval\n" + tuple_of(text("1/0")) + b"R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\n.",
        "torch.load": b"\x80\x02ctorch\nload\n.",
        "instance": b"\x80\x02(cos\nsystem\no.",
        "extension": b"\x80\x02\x82\x01.",
        "new object": b"\x80\x02ctorch\nSize\n)\x81.",
        "call of text": b"\x80\x02" + text("x") + b")R.",
        "call with a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
        "OrderedDict of a dict": b"\x80\x02ccollections\nOrderedDict\n" + tuple_of(b"}") + b"R.",
        "OrderedDict of no pairs": b"\x80\x02ccollections\nOrderedDict\n" + tuple_of(b"]K\x01a") + b"R.",
        "append to a dict": b"\x80\x02}Na.",
        "items of a tuple": b"\x80\x02)NNs.",
        "odd items": b"\x80\x02}(Nu.",
        "state of a number": b"\x80\x02K\x01}b.",
        "persistent text": b"\x80\x02" + text("x") + b"Q.",
        "persistent module": b"\x80\x02" + tuple_of(text("module"), b"N", b"N", b"N", b"N") + b"Q.",
        "storage of no type": b"\x80\x02" + tuple_of(text("storage"), b"N", text("0"), b"N", b"K\1") + b"Q.",
        "negative storage": state_dict(w=tensor(of=storage(elements=-1))),
        "number for a storage": state_dict(w=tensor(of=b"K\1")),
        "untyped storage": state_dict(w=tensor(of=storage(kind="torch.storage\nUntypedStorage"))),
        "packed storage": state_dict(w=tensor(of=storage(kind="torch\nQUInt4x2Storage"))),
        "another record": state_dict(w=tensor(of=storage(key="1"))),
        "record of another size": state_dict(w=tensor(of=storage(elements=5))),
        "record of a petabyte": state_dict(w=tensor((1 << 50,), of=storage(elements=1 << 50))),
        "record by path": state_dict(w=tensor(of=storage(key="../data.pkl"))),
        "beyond the storage": state_dict(w=tensor((5,))),
        "offset beyond": state_dict(w=tensor(offset=1)),
        "stride beyond": state_dict(w=tensor(strides=(2,))),
        "huge stride": state_dict(w=tensor(strides=(1 << 62,))),
        "huge shape": state_dict(w=tensor((1 << 62, 1 << 62), (0, 0))),
        "huge empty shape": state_dict(w=tensor((0, 1 << 63), (1, 1))),
        "negative offset": state_dict(w=tensor(offset=-1)),
        "negative shape": state_dict(w=tensor((-4,))),
        "negative stride": state_dict(w=tensor(strides=(-1,))),
        "missing stride": state_dict(w=tensor(strides=())),
        "65 dimensions": state_dict(w=tensor((1,) * 65, (1,) * 65)),
        "true as offset": state_dict(w=tensor().replace(number(0), b"\x88", 1)),
        "no arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "parameter of nothing": b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + tuple_of(b"N", b"N", b"N") + b"R.",
        "tensor in a tensor": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\0" * 2 + b".",
        "new dtype": b"\x80\x02ctorch\nbits8\n.",
        "size of a list": b"\x80\x02ctorch\nSize\n" + tuple_of(b"]") + b"R.",
    }

    @pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
    def test_given_a_hostile_pickle_then_it_is_refused_in_little_memory(self, file: Path, content: bytes) -> None:
        file.write_bytes(archive_of(content, _0=DATA))
        with small_allocations(len(content) * 80 + (1 << 20)):
            refused(file, "consolidated.00.pth: ")

    def test_given_a_pickle_that_keeps_growing_then_it_is_stopped(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch_pickle, "CHECK_EVERY", 100)
        monkeypatch.setattr(torch_pickle, "MAX_OBJECTS", 1000)
        monkeypatch.setattr(torch_pickle, "MAX_STACK", 1000)
        memo = b"".join(b"r" + struct.pack("<I", place) for place in range(1200))
        for growth in (b"N" * 1200, b"}" * 1200, b"N" * 600 + b"(" + b"N" * 600, b"N" + memo, b"N" + b"\x85" * 1200):
            file.write_bytes(archive_of(b"\x80\x02" + growth + b".", _0=DATA))
            refused(file, "grows beyond any state dict")

    def test_given_an_empty_view_from_far_away_then_its_offset_stays_in_the_storage(self, file: Path) -> None:
        far = (1 << 63) - 1
        file.write_bytes(archive_of(state_dict(w=tensor((0, far), (far, 1), far)), _0=DATA))
        assert read_checkpoint(file).tensors[0].offset == 16

    def test_given_a_pickle_larger_than_any_then_it_is_not_read(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", bytes(33 << 20))
        with small_allocations():
            refused(file, "'a/data.pkl' of 33.00 MiB")


class TestZip:
    ARCHIVES: dict[str, tuple[Archive, str]] = {  # noqa: RUF012 (a table)
        "no pickle": (Archive([Entry("a/x")]), "torch.save did not write"),
        "numpy": (Archive([Entry("w.npy")]), "numpy arrays"),
        "torchscript": (Archive(entries(Entry("a/constants.pkl"))), "TorchScript"),
        "two pickles": (Archive(entries(Entry("b/data.pkl"))), "several pickles"),
        "no endian": (Archive(entries(Entry("a/byteorder", b"pdp"))), "byte order"),
        "long byte order": (Archive(entries(Entry("a/byteorder", b"little" * 9))), "'a/byteorder' of 54 B"),
        "duplicate": (Archive(entries(Entry("a/data/0", DATA))), "stands twice"),
        "dots": (Archive(entries(Entry("a/../../x"))), "outside the archive"),
        "absolute": (Archive(entries(Entry("/x"))), "outside the archive"),
        "backslash": (Archive(entries(Entry("a\\x"))), "outside the archive"),
        "encrypted": (Archive(entries(Entry("a/x", flags=1))), "encrypted"),
        "folder with data": (Archive(entries(Entry("a/x", b"1", attributes=0x10))), "marked as a folder"),
        "folder name with data": (Archive(entries(Entry("a/x/", b"1"))), "marked as a folder"),
        "other local name": (Archive(entries(Entry("a/x", local_name="a/y"))), "damaged where 'a/x'"),
        "overlap": (Archive(entries(Entry("a/x", header=0))), "overlaps"),
        "header in data": (Archive([*entries(), Entry("a/x", header=60)]), "overlaps another"),
        "header outside": (Archive(entries(Entry("a/x", header=1 << 30))), "overlaps"),
        "long data": (Archive(entries(Entry("a/x", b"1", stored=1 << 20, nbytes=1 << 20))), "reaches into"),
        "two sizes": (Archive(entries(Entry("a/x", b"1", nbytes=1 << 20))), "two sizes"),
        "too many entries": (Archive(entries(), count=60_000), "cannot be right"),
        "one entry too many": (
            Archive([*entries(), *[Entry(f"a/{n}{'x' * 99}") for n in range(9)]], count=12),
            "damaged",
        ),
        "one entry too few": (Archive(entries(), count=1), "more than its entries"),
        "huge directory": (Archive(entries(), directory_bytes=1 << 31), "not where its end record says"),
        "directory outside": (Archive(entries(), directory_offset=1 << 31), "not where its end record says"),
        "zip64 short field": (Archive(entries(Entry("a/x", nbytes=0xFFFFFFFF, extra=b"\1\0\4\0abcd"))), "zip64"),
        "zip64 huge": (Archive(entries(), directory_offset=1 << 62, zip64=True), "not where its end record says"),
        "zip64 many": (Archive(entries(), count=1 << 62, zip64=True), "cannot be right"),
        "deflate bomb": (Archive([Entry("a/data.pkl", b"x" * 9, 8, nbytes=30 << 20)]), "beyond reason"),
        "deflate damage": (Archive([Entry("a/data.pkl", b"\xff" * 9, 8, nbytes=20)]), "damaged record"),
        "exotic compression": (Archive([Entry("a/data.pkl", b"x" * 9, 12, nbytes=20)]), "beyond reason"),
        "comment": (Archive(entries(), comment=b"PK\5\6"), "without its end"),
    }

    @pytest.mark.parametrize(("archive", "words"), ARCHIVES.values(), ids=ARCHIVES)
    def test_given_a_hostile_archive_then_it_is_refused(self, file: Path, archive: Archive, words: str) -> None:
        file.write_bytes(archive.build())
        with small_allocations():
            refused(file, "consolidated.00.pth: ", words)

    @pytest.mark.parametrize(
        "archive",
        [
            Archive(entries()),
            Archive(entries(), zip64=True),
            Archive(entries(), comment=b"hello"),
            Archive([Entry("a/data.pkl", PICKLE, local_extra=b"Z"), Entry("a/data/0", DATA, local_extra=bytes(99))]),
            Archive([
                Entry("a/data.pkl", PICKLE),
                Entry("a/data/0", DATA, nbytes=FULL, stored=FULL, extra=struct.pack("<2H2Q", 1, 16, 16, 16)),
            ]),
        ],
        ids=["plain", "zip64 end", "comment", "padding", "zip64 sizes"],
    )  # fmt: skip
    def test_given_a_valid_variant_then_the_data_is_found(self, file: Path, archive: Archive) -> None:
        content = archive.build()
        file.write_bytes(content)
        (found,) = read_checkpoint(file).tensors
        assert content[found.file_offset - 1 :].startswith(
            (b"0" if not archive.entries[1].local_extra else b"\0") + DATA
        )

    def test_given_two_end_records_that_differ_then_neither_is_believed(self, file: Path) -> None:
        content = bytearray(Archive(entries(), zip64=True).build())
        struct.pack_into("<2H", content, len(content) - 14, 1, 1)
        file.write_bytes(content)
        refused(file, "contradict each other")

    def test_given_a_deflated_pickle_then_it_is_read_and_deflated_data_is_not(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", PICKLE, zipfile.ZIP_DEFLATED)
            archive.writestr("a/data/0", DATA)
        assert read_checkpoint(file).nbytes == 16
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", PICKLE)
            archive.writestr("a/data/0", DATA)
        refused(file, "compressed archive")

    def test_given_a_truncated_download_then_it_says_so(self, file: Path) -> None:
        content = file.read_bytes()
        for length in (5, 30, len(content) // 2, len(content) - 23):
            file.write_bytes(content[:length])
            refused(file, "the download is incomplete")


class TestMetaFolder:
    def test_given_a_gap_in_the_numbers_then_the_missing_file_is_named(self, tmp_path: Path) -> None:
        for rank in (0, 2, 3):
            (tmp_path / f"consolidated.0{rank}.pth").write_bytes(archive_of(PICKLE, _0=DATA))
        refused(tmp_path, "1 of 4 files is missing: consolidated.01.pth")

    def test_given_files_with_other_names_then_they_are_no_slices(self, tmp_path: Path) -> None:
        for rank, name in enumerate(("w", "v")):
            content = archive_of(state_dict(**{name: tensor()}), _0=DATA)
            (tmp_path / f"consolidated.0{rank}.pth").write_bytes(content)
        refused(tmp_path, "consolidated.01.pth", "only one of them has v, w")

    def test_given_params_without_weights_then_it_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "params.json").write_text("{}")
        for path in (tmp_path, tmp_path / "params.json"):
            refused(path, "no consolidated.00.pth")

    @pytest.mark.parametrize("content", ["{", "[]", '{"dim": NaN}', '{"a": 1, "a": 2}', "9" * 5000])
    def test_given_damaged_params_then_they_are_refused(self, file: Path, content: str) -> None:
        (file.parent / "params.json").write_text(content)
        refused(file.parent, "params.json", "not the JSON")

    def test_given_huge_params_then_they_are_not_read(self, file: Path) -> None:
        params = file.parent / "params.json"
        params.write_text(json.dumps({}))
        os.truncate(params, 1 << 34)
        with small_allocations():
            refused(file, "params.json", "16.00 GiB")

    def test_given_a_pickle_alone_then_it_is_called_that(self, file: Path) -> None:
        file.write_bytes(pickle.dumps({}))
        refused(file, "is a pickle")
