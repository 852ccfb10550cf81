"""Where captures live, and how they are named."""

from __future__ import annotations

import datetime
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.capture import library
from meminspect.capture.library import default_folder, new_path, newest
from meminspect.errors import UsageError

NOON = datetime.datetime(2026, 3, 4, 12, 0, 5)  # the user's own clock


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "datetime", SimpleNamespace(datetime=SimpleNamespace(now=lambda: NOON)))


# --- the folder


def test_captures_are_kept_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "meminspect" / "captures"
    assert list(tmp_path.iterdir()) == [], "asking makes no folder"


def test_without_a_setting_they_are_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder().is_relative_to(tmp_path)


def test_without_a_home_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(UsageError) as caught:
        default_folder()
    assert caught.value.message == "there is no home folder to keep captures in"
    assert caught.value.hint == "name one with --out, or set XDG_DATA_HOME"


def test_a_folder_that_depends_on_where_one_is_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: Path("somewhere/here"))
    with pytest.raises(UsageError, match="no home folder"):
        default_folder()


def test_a_platform_that_knows_no_folder_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> None:
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_data_path", unknown)
    with pytest.raises(UsageError, match="no home folder"):
        default_folder()


# --- names


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize(
    ("checkpoint", "subject"),
    [
        ("/models/llama-7b", "llama-7b"),
        ("/models/model.safetensors", "model.safetensors"),
        ("/models/größe 重み [x]/", "größe_重み_x_"),
        ("/models/a;rm -rf $HOME\n\x1b", "a_rm_-rf_HOME_"),
        ("/", "checkpoint"),
        ("/models/" + "x" * 200, "x" * 60),
    ],
)
def test_a_name_says_when_what_and_how(checkpoint: str, subject: str) -> None:
    expected = f"20260304-120005-{subject}-naive-{os.getpid()}.meminspect"
    assert new_path(Path("/captures"), Path(checkpoint), "naive") == Path("/captures") / expected


@pytest.mark.usefixtures("noon")
def test_a_checkpoint_that_is_the_current_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama").mkdir()
    monkeypatch.chdir(tmp_path / "llama")
    assert "-llama-" in new_path(tmp_path, Path(), "naive").name


@given(st.text(min_size=1) | st.sampled_from(["重" * 90, "\U00020000" * 90, "\ud800" * 90]))
def test_whatever_a_checkpoint_is_called_its_captures_have_a_name_that_a_file_system_takes(name: str) -> None:
    made = new_path(Path("/captures"), Path("/models") / name.replace("\0", ""), "mmap-assign-10")
    assert made.parent == Path("/captures")
    assert len(made.name.encode()) <= 255
    assert made.name.isprintable()
    assert not set(made.name) & set(" /'\"$&;|<>")


def test_later_captures_sort_behind_earlier_ones_whatever_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for name, seconds in [("zebra", 0), ("aardvark", 1), ("m", 60), ("b", 86_400)]:
        now = NOON + datetime.timedelta(seconds=seconds)
        clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda now=now: now))
        monkeypatch.setattr(library, "datetime", clock)
        paths.append(new_path(Path("/captures"), Path(name), "naive"))
    assert paths == sorted(paths)


# --- the newest


def test_the_newest_come_first_by_their_names_and_others_files_not_at_all(tmp_path: Path) -> None:
    names = ["20260101-a", "20260103-a", "20260102-z"]
    for name in names:
        (tmp_path / f"{name}.meminspect").touch()
    os.utime(tmp_path / "20260101-a.meminspect", (2e9, 2e9))  # a reader has folded its journal into it
    for other in ("20260109.meminspect-wal", "20260109.json", ".meminspect", "20260109.MEMINSPECT"):
        (tmp_path / other).touch()
    assert [path.stem for path in newest(tmp_path, 10)] == ["20260103-a", "20260102-z", "20260101-a"]
    assert [path.stem for path in newest(tmp_path, 2)] == ["20260103-a", "20260102-z"]
    assert newest(tmp_path, 0) == []


def test_a_folder_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert newest(tmp_path / "absent", 10) == []
    assert newest(tmp_path / "file", 10) == []
