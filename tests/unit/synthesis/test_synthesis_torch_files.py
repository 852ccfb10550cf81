from __future__ import annotations

import collections
import pickletools
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from meminspect.synthesis import SynthesisSpec, synthesise
from meminspect.synthesis.output import Output
from meminspect.synthesis.plan import PlannedTensor
from meminspect.synthesis.torch_zip import write_state_dict, write_tensor
from meminspect.synthesis.values import DTYPES, Noise, NoisePool, Zeros

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.architectures import Architecture


def planned(name: str, shape: tuple[int, ...], dtype: str = "float16") -> PlannedTensor:
    elements = torch.Size(shape).numel()
    return PlannedTensor(name, dtype, shape, Noise(name, elements, NoisePool(0, dtype)))


def save(path: Path, tensors: list[PlannedTensor], *, ordered: bool, ties: list[tuple[str, str]] | None = None) -> None:
    with Output(path, sparse=False, advance=lambda _: None) as output:
        write_state_dict(output, path.stem, tensors, ordered=ordered, ties=ties or [])


def assert_same_file(ours: Path, torchs: Path) -> None:
    """Equal but for the half of the fingerprint that is the C++ library's hash of the names."""
    mine, theirs = ours.read_bytes(), torchs.read_bytes()
    with zipfile.ZipFile(ours) as first, zipfile.ZipFile(torchs) as second:
        entries = list(zip(first.infolist(), second.infolist(), strict=True))
        fingerprint = next(entry for entry, _ in entries if entry.filename.endswith("serialization_id"))
        pickles = [archive.read(f"{ours.stem}/data.pkl") for archive in (first, second)]
        assert first.testzip() is None
        assert first.read(fingerprint)[20:] == second.read(fingerprint.filename)[20:]
    assert [(op.name, arg) for op, arg, _ in pickletools.genops(pickles[0])] == [
        (op.name, arg) for op, arg, _ in pickletools.genops(pickles[1])
    ]
    assert [entry.header_offset for entry, _ in entries] == [entry.header_offset for _, entry in entries]
    assert mine[: fingerprint.header_offset] == theirs[: fingerprint.header_offset]
    assert len(mine) == len(theirs)
    # From there on the hash differs, and its checksum, which stands in the descriptor and in the directory.
    assert sum(a != b for a, b in zip(mine, theirs, strict=True)) <= 20 + 4 + 4


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 40, pytest.param(300, marks=pytest.mark.slow)])
def test_state_dict_is_what_torch_saves(tmp_path: Path, ordered: bool, count: int) -> None:
    # given shapes of every length, enough tensors for two-byte memo numbers, and lengths of one to four bytes
    shapes = [(), (3,), (300, 7), (2, 3, 4), (1, 2, 3, 4), (70_000,), (0, 5), (5, 0)]
    dtypes = ["float16", "float32", "float8_e4m3fn", "bfloat16"]
    tensors = [
        planned(f"layers.{i}.weight", shapes[i % len(shapes)], dtypes[i // 3 % len(dtypes)]) for i in range(count)
    ]
    (tmp_path / "torch").mkdir()
    ours, torchs = tmp_path / "model.00.pth", tmp_path / "torch" / "model.00.pth"

    save(ours, tensors, ordered=ordered)
    loaded = torch.load(ours, weights_only=True)
    torch.save(collections.OrderedDict(loaded) if ordered else dict(loaded), torchs)

    assert type(loaded) is (collections.OrderedDict if ordered else dict)
    assert_same_file(ours, torchs)


def test_tied_tensors_share_their_storage_as_torch_saves_them(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    ours, torchs = tmp_path / "m.bin", tmp_path / "torch" / "m.bin"
    save(ours, [planned("a.weight", (5, 4)), planned("b", (3,))], ordered=False, ties=[("head", "a.weight")])
    loaded = torch.load(ours, weights_only=True)
    torch.save(loaded, torchs)
    assert loaded["head"].data_ptr() == loaded["a.weight"].data_ptr()
    assert_same_file(ours, torchs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bare_tensor_is_what_torch_saves(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "torch").mkdir()
    ours, torchs = tmp_path / "a.norm.weight.pt", tmp_path / "torch" / "a.norm.weight.pt"
    with Output(ours, sparse=False, advance=lambda _: None) as output:
        write_tensor(output, "a.norm.weight", planned("a.norm.weight", (30, 20), dtype))
    loaded = torch.load(ours, weights_only=True)
    torch.save(loaded, torchs)
    assert loaded.dtype is getattr(torch, dtype)
    assert loaded.shape == (30, 20)
    assert_same_file(ours, torchs)


def test_more_items_than_one_opcode_takes(tmp_path: Path) -> None:
    save(tmp_path / "m.pth", [planned(f"t{i}", (2,)) for i in range(2001)], ordered=True)
    assert len(torch.load(tmp_path / "m.pth", weights_only=True)) == 2001


def test_records_beyond_four_gibibytes_lie_where_torch_puts_them(tmp_path: Path) -> None:
    # given the state dict of which torch 2.13 made the offsets below: sizes and places that 32 bits cannot hold
    large = 2**32 + 100
    tensors = [
        PlannedTensor("small0", "float32", (3,), Zeros(12)),
        PlannedTensor("big", "uint8", (large,), Zeros(large)),
        PlannedTensor("small", "float32", (5,), Zeros(20)),
        PlannedTensor("empty", "float32", (0,), Zeros(0)),
        PlannedTensor("x", "float32", (1,), Zeros(4)),
    ]
    path = tmp_path / "big4.pth"

    with Output(path, sparse=True, advance=lambda _: None) as output:
        write_state_dict(output, "big4", tensors, ordered=False)

    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        data = [entry for entry in archive.infolist() if "/data/" in entry.filename]
        # data/1 has both sizes in its zip64 field; data/2 its offset, and 64-bit sizes after the data
        assert [entry.header_offset for entry in data] == [854, 988, 4294968508, 4294968620, 4294968704]
        assert [entry.file_size for entry in data] == [12, large, 20, 0, 4]
        assert data[1].CRC == 0xA92A4CE5
        file.seek(988 + 30 + len("big4/data/1"))
        assert file.read(20) == bytes.fromhex("01001000 6400000001000000 6400000001000000".replace(" ", ""))
        file.seek(4294968508 + 30 + len("big4/data/2"))
        assert file.read(12) == bytes.fromhex("01000800bc04000001000000")
        file.seek(4294968576 + 20)
        assert file.read(24)[8:] == struct.pack("<QQ", 20, 20)
        assert archive.start_dir == 2**32 + 0x700
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert loaded["big"].shape == (large,)
    assert loaded["x"].item() == 0
    assert path.stat().st_blocks * 512 < 1 << 20


def test_odd_tensors_survive_in_every_layout_of_torch(odd: Architecture, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    out = synthesise(SynthesisSpec(tmp_path / "odd", odd, "bin", "float32"))
    loaded = torch.load(out / "pytorch_model.bin", weights_only=True)
    torch.save(loaded, tmp_path / "torch" / "pytorch_model.bin")
    assert_same_file(out / "pytorch_model.bin", tmp_path / "torch" / "pytorch_model.bin")
    assert loaded["lm_head.weight"].data_ptr() == loaded["wte.weight"].data_ptr()
