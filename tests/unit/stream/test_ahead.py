from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from meminspect.errors import StreamError
from meminspect.page_cache import cached_fraction, evict
from meminspect.stream import read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable

    Load = Callable[[], dict[str, torch.Tensor]]

NAMES = [f"layers.{number}" for number in range(6)]
ELEMENTS = 1 << 20
READ_BYTES = 16 << 20  # more than the kernel reads by itself around a page that is touched


@pytest.fixture(params=["safetensors", "torch"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Maps a file of 24 MiB that is not in the page cache."""
    tensors = {name: torch.full((ELEMENTS,), float(number)) for number, name in enumerate(NAMES)}
    path = tmp_path / "checkpoint"
    if request.param == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    if not evict(path):
        pytest.skip("this file system keeps its pages")
    return lambda: load_file(path) if request.param == "safetensors" else torch.load(path, mmap=True)


def mapped_bytes() -> int:
    """RssFile of this process, as the kernel counts it page by page."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.endswith("kB"))
    return (int(fields["Rss"].split()[0]) - int(fields["Anonymous"].split()[0])) * 1024


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_populate_returns_when_every_page_is_there(load: Load) -> None:
    before = mapped_bytes()
    state_dict = load()
    read_ahead(state_dict, "populate")
    assert mapped_bytes() - before >= 0.99 * len(NAMES) * ELEMENTS * 4
    assert [float(state_dict[name][-1]) for name in NAMES] == [0, 1, 2, 3, 4, 5]


def test_the_thread_has_brought_every_page_when_it_ends(load: Load) -> None:
    before = mapped_bytes()
    state_dict = load()
    read_ahead(state_dict, "thread")
    wait_for(lambda: all(thread.name != "read ahead" for thread in threading.enumerate()))
    assert mapped_bytes() - before >= 0.99 * len(NAMES) * ELEMENTS * 4


def test_the_kernel_reads_what_it_is_told_to_need(load: Load, tmp_path: Path) -> None:
    before = mapped_bytes()
    state_dict = load()
    read_ahead(state_dict, "willneed")
    wait_for(lambda: cached_fraction(tmp_path / "checkpoint").fraction == 1)
    assert mapped_bytes() - before < READ_BYTES, "it has mapped them too"


class Tied(nn.Module):
    def __init__(self, state_dict: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.owned = nn.Parameter(torch.ones(3))
        self.head = nn.Parameter(state_dict["layers.1"])
        self.embedding = self.head
        self.first = nn.Parameter(state_dict["layers.0"][: ELEMENTS // 2])
        self.second = nn.Parameter(state_dict["layers.0"][ELEMENTS // 2 :])
        self.nothing = nn.Parameter(torch.empty(0))
        self.hollow = nn.Parameter(torch.empty(3, device="meta"))


class Books:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def begins(self, name: str, storage: torch.UntypedStorage) -> None:
        assert storage.nbytes()
        self.begun.append(name)

    def ends(self, name: str, storage: torch.UntypedStorage) -> None:
        assert name in self.begun
        self.ended.append(name)


def test_each_storage_of_a_model_is_populated_once_under_its_first_name(load: Load) -> None:
    model, books = Tied(load()), Books()
    read_ahead(model, observer=books)
    firsts = {tensor.untyped_storage().data_ptr(): name for name, tensor in reversed(model.state_dict().items())}
    host = [name for name in model.state_dict() if name in firsts.values() and name not in ("nothing", "hollow")]
    assert books.begun == host
    assert sorted(books.ended) == sorted(host)


def test_of_a_file_that_has_been_cut_the_tensor_is_named(load: Load, tmp_path: Path) -> None:
    state_dict = load()
    os.truncate(tmp_path / "checkpoint", 5 * ELEMENTS * 4)
    with pytest.raises(StreamError, match=r"'layers\.[45]' cannot be read: its file is shorter"):
        read_ahead(state_dict)
    assert all(not thread.name.startswith("read ahead") for thread in threading.enumerate())


def test_a_thread_that_fails_warns(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dict, told = load(), []
    monkeypatch.setattr("warnings.warn", lambda message, **_: told.append(message))
    os.truncate(tmp_path / "checkpoint", 5 * ELEMENTS * 4)
    read_ahead(state_dict, "thread")
    wait_for(lambda: all(thread.name != "read ahead" for thread in threading.enumerate()))
    assert "its file is shorter" in "".join(told)


@pytest.mark.slow
def test_an_interpreter_that_ends_meanwhile_ends_in_peace(tmp_path: Path) -> None:
    torch.save({f"t{number}": torch.ones(9000) for number in range(4000)}, tmp_path / "checkpoint")
    evict(tmp_path / "checkpoint")
    code = """
import sys, torch
from meminspect.stream import read_ahead
read_ahead(torch.load(sys.argv[1], mmap=True), "thread")
"""
    command = [sys.executable, "-c", code, tmp_path / "checkpoint"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_way_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="no reading ahead by 'magic': use one of populate, thread, willneed"):
        read_ahead(load(), "magic")
