from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from meminspect.architectures import ARCHITECTURES
from meminspect.errors import UsageError
from meminspect.synthesis import LAYOUTS, architecture_for, demo, demo_checkpoint, remove_demo, tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder that the demo lives in, and a demo of a hundredth of the size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "_DEMO_PARAMETERS", 2_500_000)
    return tmp_path / "cache" / "meminspect"


def test_demo_is_half_a_gigabyte_of_llama() -> None:
    model = architecture_for("llama", "meta", parameters=250_000_000)
    assert 480 * 10**6 < 2 * model.elements < 520 * 10**6


def test_demo_is_written_once_and_removed(cache: Path) -> None:
    # given no demo, when it is asked for twice
    calls: list[tuple[int, int]] = []
    first = demo_checkpoint(lambda done, total: calls.append((done, total)))
    written = len(calls)
    again = demo_checkpoint(lambda done, total: calls.append((done, total)))

    # then it is written the first time only, where the platform keeps caches
    assert first == again == cache / "demo-1"
    assert len(calls) == written > 0
    assert calls[-1][0] == calls[-1][1]
    tensors = torch.load(first / "consolidated.00.pth", weights_only=True, mmap=True)
    assert tensors["norm.weight"].dtype is torch.float16

    # and removing it gives its bytes back, and finds none the second time
    assert remove_demo() >= calls[-1][1]
    assert not first.exists()
    assert remove_demo() == 0


def test_removing_takes_the_remains_of_a_killed_process_along(cache: Path) -> None:
    remains = cache / "demo-1.partial-0123"
    remains.mkdir(parents=True)
    (remains / "consolidated.00.pth").write_bytes(bytes(100_000))
    assert remove_demo() >= 100_000
    assert not remains.exists()


def test_demo_that_lost_a_file_is_written_again(cache: Path) -> None:
    (demo_checkpoint() / "consolidated.00.pth").unlink()
    assert (demo_checkpoint() / "consolidated.00.pth").is_file()


def test_demo_that_another_process_finished_first_is_taken(cache: Path) -> None:
    calls = 0

    def meanwhile(done: int, _: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            demo_checkpoint()

    assert demo_checkpoint(meanwhile) == cache / "demo-1"
    assert [entry.name for entry in cache.iterdir()] == ["demo-1"]


def test_without_a_cache_folder_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for action in (demo_checkpoint, remove_demo):
        with pytest.raises(UsageError, match="no home folder"):
            action()

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot write") as caught:
        demo_checkpoint()
    assert "XDG_CACHE_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("architecture", "naming", "layout"),
    [(a, naming, layout.id) for layout in LAYOUTS.values() for a in layout.namings for naming in layout.namings[a]],
)
@pytest.mark.parametrize("shards", [1, 2, 8])
def test_tiny_checkpoint_of_every_kind(
    tmp_path: Path, architecture: str, naming: str, layout: str, shards: int
) -> None:
    shards = 1 if layout in ("per-tensor", "litgpt", "gguf") else shards
    folder = tiny_checkpoint(architecture, naming, layout, "bfloat16", tmp_path / "tiny", shards=shards)
    files = [file for file in folder.iterdir() if file.suffix != ".json"]
    assert len(files) == min(shards, 2) or layout in ("per-tensor", "dcp")
    assert sum(file.stat().st_size for file in files) < 250_000


def test_tiny_checkpoint_is_sharded_where_the_readers_layout_is(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gpt2", "hf", "safetensors-sharded", "float16", tmp_path / "tiny")
    assert (folder / "model.safetensors.index.json").is_file()


def test_every_naming_has_a_tiny_model(tmp_path: Path) -> None:
    for family in ARCHITECTURES.values():
        for naming in family.namings:
            assert (family.id, naming) in demo._TINY
    with pytest.raises(UsageError, match="no tiny llama with 'lit'"):
        tiny_checkpoint("llama", "lit", "bin", "float16", tmp_path / "tiny")
