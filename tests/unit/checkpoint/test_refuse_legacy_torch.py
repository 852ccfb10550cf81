"""Damaged and hostile files of torch's older format: refused in a line and in little memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch
from checkpoint_archives import number, state_dict, tensor, text, tuple_of
from checkpoint_files import refused, small_allocations

from meminspect.checkpoint import read_checkpoint
from meminspect.checkpoint.torch_legacy import LEGACY_MAGIC

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = LEGACY_MAGIC + b"."
VERSION = b"\x80\x02M\xe9\x03."
FACTS = b"\x80\x02}."
DATA = bytes(range(16))


def storage(key: str = "0", elements: int = 4, kind: str = "torch\nFloatStorage", view: bytes = b"N") -> bytes:
    """A storage as the older persistent id, which ends with what it is a view of."""
    return tuple_of(text("storage"), f"c{kind}\n".encode(), text(key), text("cpu"), number(elements), view) + b"Q"


def keys(*names: str) -> bytes:
    return b"\x80\x02](" + b"".join(map(text, names)) + b"e."


def legacy(
    obj: bytes = state_dict(w=tensor(of=storage())),
    *,
    listed: bytes = keys("0"),
    version: bytes = VERSION,
    facts: bytes = FACTS,
    count: int = 4,
    data: bytes = DATA,
) -> bytes:
    return MAGIC + version + facts + obj + listed + struct.pack("<q", count) + data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def test_given_an_honest_file_by_hand_then_it_is_read_as_torch_reads_it(file: Path) -> None:
    file.write_bytes(legacy())
    (found,) = read_checkpoint(file).tensors
    assert file.read_bytes()[found.file_offset :] == DATA
    assert torch.load(file, weights_only=True)["w"].numpy().tobytes() == DATA


def test_given_something_behind_the_last_tensor_then_a_warning_says_so(file: Path) -> None:
    file.write_bytes(legacy() + bytes(5))
    assert "model.pth holds 5 B that no tensor uses" in read_checkpoint(file).warnings


def test_given_text_as_python_2_wrote_it_then_it_is_read(file: Path) -> None:
    old = state_dict(w=tensor(of=storage())).replace(text("w"), b"U\x01w").replace(text("storage"), b"U\x07storage")
    file.write_bytes(legacy(old, listed=b"\x80\x02]U\x010a."))
    (found,) = read_checkpoint(file).tensors
    assert found.name == "w"
    assert (
        torch.load(file, weights_only=True)["w"].tolist()
        == torch.frombuffer(bytearray(DATA), dtype=torch.float32).tolist()
    )


HOSTILE: dict[str, tuple[bytes, str]] = {
    "other version": (legacy(version=b"\x80\x02K\1."), "version that does not exist"),
    "version of text": (legacy(version=b"\x80\x02" + text("1001") + b"."), "version that does not exist"),
    "negative elements": (legacy(state_dict(w=tensor(of=storage(elements=-1)))), "impossible storage"),
    "view of a storage": (legacy(state_dict(w=tensor(of=storage(view=b"K\1")))), "impossible storage"),
    "another count": (legacy(count=5), "contradicts itself about the storage '0'"),
    "negative count": (legacy(count=-4), "contradicts itself"),
    "petabyte": (
        legacy(state_dict(w=tensor((1 << 50,), of=storage(elements=1 << 50))), count=1 << 50),
        "download is incomplete",
    ),
    "beyond the end": (legacy(data=DATA[:-1]), "download is incomplete"),
    "no data": (legacy(data=b"")[:-8], "download is incomplete"),
    "key twice": (legacy(listed=keys("0", "0"), data=DATA + struct.pack("<q", 4) + DATA), "contradicts itself"),
    "unknown key": (legacy(listed=keys("1")), "damaged list of storages"),
    "key that is no text": (legacy(listed=b"\x80\x02]K\1a."), "damaged list of storages"),
    "keys of a dict": (legacy(listed=b"\x80\x02}."), "damaged list of storages"),
    "no keys": (legacy(listed=keys()), "lacks the data"),
    "new persistent id": (legacy(state_dict(w=tensor())), "refers to something outside"),
    "two sizes": (
        legacy(state_dict(w=tensor(of=storage()), v=tensor((1,), of=storage(elements=9)))),
        "one storage as two sizes",
    ),
    "code": (legacy(b"\x80\x02cos\nsystem\n" + tuple_of(text("id")) + b"R."), "refers to os.system"),
    "code in the facts": (legacy(facts=b"\x80\x02cos\nsystem\n" + tuple_of(text("id")) + b"R."), "refers to os.system"),
    "code in the keys": (legacy(listed=b"\x80\x02cbuiltins\neval\n" + tuple_of(text("1")) + b"R."), "builtins.eval"),
    "module": (
        legacy(
            b"\x80\x02" + tuple_of(text("module"), b"cmy\nModel\n", text("a.py"), text("import os")) + b"Q.",
            listed=keys(),
        ),
        "single value: my.Model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_given_a_hostile_file_then_it_is_refused(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with small_allocations():
        refused(file, "model.pth: ", words)


def test_given_a_file_cut_anywhere_then_it_is_refused(file: Path) -> None:
    content = legacy()
    for length in range(len(MAGIC), len(content)):
        file.write_bytes(content[:length])
        refused(file, "model.pth: ")


def test_given_a_pickle_without_an_end_then_it_is_given_up_after_what_a_pickle_may_take(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.checkpoint.torch_legacy.MAX_PICKLE_BYTES", 1 << 16)
    file.write_bytes(MAGIC + VERSION + FACTS + b"\x80\x02" + b"N" * (1 << 18))
    refused(file, "damaged pickle")


def test_given_a_pickle_longer_than_a_window_then_it_is_read(file: Path) -> None:
    tensors = {f"layer.{number}": torch.full((1,), float(number)) for number in range(1500)}
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for stored in read_checkpoint(file).tensors:
        assert struct.unpack_from("<f", content, stored.file_offset) == (float(stored.name[6:]),)
