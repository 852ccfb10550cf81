from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from sampling_processes import run_python

from meminspect import page_cache
from meminspect.page_cache import Residency, cached_bytes, cached_fraction, evict, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = mmap.PAGESIZE
PAGES = 256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is not a whole number of pages, just written."""
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(PAGES * PAGE + 100))
    if not evict(path):
        pytest.skip("the pages of this file system cannot be dropped (a tmpfs?)")
    warm(path)
    return path


@pytest.fixture
def descriptor(file: Path) -> Iterator[int]:
    opened = os.open(file, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.fixture(params=["cachestat", "mincore"])
def instrument(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of asking the kernel; the second is for kernels before 6.5."""
    if request.param == "mincore":
        monkeypatch.setattr(page_cache, "_cachestat", lambda *_: None)
    return str(request.param)


def touch_pages(path: Path, *pages: int) -> None:
    """Bring single pages in: random access, so that the kernel reads nothing ahead."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for page in pages:
            os.pread(descriptor, 1, page * PAGE)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("instrument")
class TestResidency:
    def test_given_a_dirty_file_when_evicted_then_nothing_is_left_and_warming_brings_all_back(self, tmp_path: Path):
        path = tmp_path / "dirty.bin"
        path.write_bytes(b"x" * (PAGES * PAGE + 100))
        if not evict(path):
            pytest.skip("the pages of this file system cannot be dropped (a tmpfs?)")

        assert cached_fraction(path) == Residency(0.0, "")
        assert warm(path) == PAGES * PAGE + 100
        assert cached_fraction(path) == Residency(1.0, "")

    def test_given_some_pages_when_asked_by_range_then_only_those_within_count(self, file: Path, descriptor: int):
        assert evict(file)
        touch_pages(file, 3, 4, 200)

        assert cached_bytes(descriptor, 0, PAGES * PAGE) == 3 * PAGE
        assert cached_bytes(descriptor, 3 * PAGE, PAGE) == PAGE
        assert cached_bytes(descriptor, 5 * PAGE, 100 * PAGE) == 0
        assert cached_fraction(file).fraction == pytest.approx(3 / PAGES, rel=0.01)

    def test_given_a_cached_file_when_asked_by_odd_ranges_then_never_more_than_the_range(self, descriptor: int):
        assert cached_bytes(descriptor, 10, 7) == 7
        assert cached_bytes(descriptor, PAGE - 1, 2) == 2
        assert cached_bytes(descriptor, PAGES * PAGE, PAGE) == 100
        assert cached_bytes(descriptor, 0, 1 << 40) == PAGES * PAGE + 100

    def test_given_an_empty_range_when_asked_then_zero_and_not_the_rest_of_the_file(self, descriptor: int):
        assert cached_bytes(descriptor, 0, 0) == 0
        assert cached_bytes(descriptor, 5, 0) == 0
        assert cached_bytes(descriptor, 1 << 40, 5) == 0

    def test_given_a_file_beyond_a_window_when_asked_then_the_windows_add_up(
        self, file: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(page_cache, "_WINDOW", 7 * PAGE)
        assert evict(file)
        touch_pages(file, 0, 6, 7, 255)

        assert cached_bytes(descriptor, 0, PAGES * PAGE) == 4 * PAGE

    def test_given_a_file_that_someone_maps_when_evicted_then_its_pages_stay_and_the_answer_is_false(self, file: Path):
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            assert mapping[0] is not None
            assert not evict(file)


def test_given_an_empty_file_when_asked_then_all_of_it_is_cached_and_none_is_left(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.touch()

    assert cached_fraction(empty) == Residency(1.0, "")
    assert evict(empty)
    assert warm(empty) == 0


def test_given_no_file_or_a_folder_or_a_fifo_when_asked_then_the_reason_is_told_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")

    assert cached_fraction(tmp_path / "absent") == Residency(None, "No such file or directory")
    assert cached_fraction(tmp_path) == Residency(None, "not a regular file")
    assert cached_fraction(tmp_path / "fifo") == Residency(None, "not a regular file")


def test_given_no_file_when_evicted_or_warmed_then_the_error_names_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="absent"):
        evict(tmp_path / "absent")
    with pytest.raises(OSError, match="not a regular file"):
        warm(tmp_path)


OTHERS_FILE = """
from pathlib import Path
from meminspect import page_cache
page_cache._libc()
if %(mincore)r:
    page_cache._cachestat = lambda *_: None
drop()
path = Path("weights.bin")
evicted = page_cache.evict(path)
print(json.dumps([page_cache.cached_fraction(path), evicted]))
"""


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("mincore", [False, True])
def test_given_anothers_file_when_asked_then_unknown_with_a_reason_and_never_all_of_it(
    as_nobody: Callable[[str], Any], *, mincore: bool
):
    (fraction, reason), evicted = as_nobody(OTHERS_FILE % {"mincore": mincore})

    assert fraction is None
    assert "owner" in reason
    assert evicted is False


def test_given_anothers_file_that_one_may_write_when_asked_then_it_is_known(
    as_nobody: Callable[[str], Any], file: Path
):
    file.chmod(0o666)

    (fraction, _), evicted = as_nobody(OTHERS_FILE % {"mincore": True})

    assert (fraction, evicted) == (0.0, True)


def test_given_a_kernel_that_answers_neither_call_when_asked_then_unknown_with_a_reason(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_cache, "_cachestat", lambda *_: None)
    monkeypatch.setattr(page_cache, "_mincore", lambda *_: None)

    fraction, reason = cached_fraction(file)

    assert fraction is None
    assert "cachestat" in reason


def test_given_a_kernel_that_calls_everything_resident_when_asked_then_unknown_and_never_all_of_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    """As gVisor's does, in which many containers run."""
    monkeypatch.setattr(page_cache, "_cachestat", lambda *_: None)
    monkeypatch.setattr(page_cache, "_mincore_can_say_no", lambda: False)

    fraction, reason = cached_fraction(file)

    assert fraction is None
    assert "every page resident" in reason


def test_given_this_kernel_when_its_mincore_is_tried_then_an_untouched_page_is_not_there():
    assert page_cache._mincore_can_say_no()


def test_given_an_unknown_file_system_when_asked_then_not_by_the_call_that_answers_0_on_an_overlay(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    warm(file)
    monkeypatch.setattr(page_cache, "_file_system_magic", lambda _: None)
    monkeypatch.setattr(page_cache, "_cachestat", lambda *_: 0)

    assert cached_fraction(file) == Residency(1.0, "")


def test_given_a_system_that_drops_nothing_when_evicted_then_the_error_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(os, "posix_fadvise")

    with pytest.raises(OSError, match="drops no file from the page cache"):
        evict(file)


def test_given_zfs_when_asked_then_unknown_as_its_cache_is_another(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_cache, "_file_system_magic", lambda _: 0x2FC12FC1)

    fraction, reason = cached_fraction(file)

    assert fraction is None
    assert "ZFS" in reason


OVERLAY = """
import json, subprocess
from pathlib import Path
from meminspect.sampling.file_system import file_system
from meminspect.page_cache import cached_fraction, evict, warm
top = Path({folder!r})
lower, upper, work, merged = (top / name for name in ("lower", "upper", "work", "merged"))
for folder in (lower, upper, work, merged):
    folder.mkdir(parents=True)
(lower / "weights.bin").write_bytes(b"x" * 1000000)
evict(lower / "weights.bin")  # written back, as an image's layers are: an overlay does not write lower files back
options = f"lowerdir={{lower}},upperdir={{upper}},workdir={{work}}"
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
path = merged / "weights.bin"
warm(path)
before = cached_fraction(path)
print(json.dumps([file_system(path), before, evict(path), cached_fraction(path)]))
"""


@pytest.mark.usefixtures("file")
def test_given_a_containers_overlay_when_asked_then_its_layers_pages_are_counted(tmp_path: Path):
    probe = "mkdir l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m"
    if not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("only root may mount an overlay")
    if subprocess.run(["unshare", "-m", "sh", "-c", probe], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this kernel does not mount an overlay here")

    answer = run_python(OVERLAY.format(folder=str(tmp_path / "overlay")), prefix=("unshare", "-m"))

    assert answer == ["overlay", [1.0, ""], True, [0.0, ""]]


def test_given_a_reader_that_is_told_to_stop_when_warming_then_the_rest_is_left(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_cache, "_BUFFER_BYTES", 16 * PAGE)
    answers = iter([False, False, True])

    assert warm(file, lambda: next(answers)) == 32 * PAGE
