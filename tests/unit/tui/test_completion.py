"""What is offered while a path is typed, and the checkpoints of before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meminspect.capture.store import CaptureWriter
from meminspect.tui.completion import Candidate, complete, recent_checkpoints

MARKERS = 7  # names that a folder is looked through for
MOST = 200


def grow(folder: Path, *names: str) -> None:
    """Files, and folders where a name ends in a slash."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.touch()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the user types."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def paths(text: str) -> list[str]:
    return [candidate.path for candidate in complete(text)]


# --- what begins as it is typed


def test_folders_and_files_that_may_be_checkpoints_are_offered_as_they_are_typed(here: Path) -> None:
    grow(here, "models/", "model.safetensors", "model.pth", "model.json", "model.txt", "mode", "other/")
    assert complete("mod") == [
        Candidate("model.json", "file"),
        Candidate("model.pth", "file"),
        Candidate("model.safetensors", "file"),
        Candidate("models/", ""),
    ]


def test_folders_with_a_checkpoint_come_first_whatever_their_names(here: Path) -> None:
    grow(here, "a/", "b/params.json", "c/model.safetensors", "d/model.safetensors.index.json", "e/config.json")
    assert complete("./") == [
        Candidate("./b/", "checkpoint"),
        Candidate("./c/", "checkpoint"),
        Candidate("./d/", "checkpoint"),
        Candidate("./a/", ""),
        Candidate("./e/", ""),
    ]


def test_a_path_is_completed_in_its_folder_and_in_no_other(here: Path) -> None:
    grow(here, "sub/one/", "sub/deep/one/", "one/")
    grow(here.parent, "one/")
    assert paths("sub/o") == ["sub/one/"]
    assert paths("sub/deep/") == ["sub/deep/one/"]
    assert paths("o") == ["one/"]
    assert paths("../o") == ["../one/"]
    assert paths(f"{here}/o") == [f"{here}/one/"]
    assert paths(f"{here}//o") == [f"{here}//one/"], "as it is typed"


def test_case_matters_and_patterns_do_not(here: Path) -> None:
    grow(here, "Model/", "m*l/", "[ab]/")
    assert paths("model") == []
    assert paths("m*") == ["m*l/"]
    assert paths("[") == ["[ab]/"]


def test_hidden_names_are_offered_when_they_are_asked_for(here: Path) -> None:
    grow(here, ".cache/", ".x.json", "seen/")
    assert paths("./") == ["./seen/"]
    assert paths(".") == [".x.json", ".cache/"]
    assert paths("./.c") == ["./.cache/"]


def test_a_home_folder_stays_a_tilde(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    grow(home, "models/params.json", "music/")
    grow(here, "home/")
    monkeypatch.setenv("HOME", str(home))
    assert complete("~/m") == [Candidate("~/models/", "checkpoint"), Candidate("~/music/", "")]
    assert complete("~/models/p") == [Candidate("~/models/params.json", "file")]
    assert complete("~") == [Candidate("~/", "")], "not what is called like it here"


def test_a_tilde_of_nobody_is_a_letter_like_any_other(here: Path) -> None:
    grow(here, "~nobody-of-that-name/")
    assert paths("~nobody-of-t") == ["~nobody-of-that-name/"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    grow(folder, "a/b/a.json", "a/.a/", "ab/params.json", ".a.json", "b.pth", "~/a/", "../ab.json")
    return folder


typed = st.text("ab./~\0", max_size=8) | st.text(max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed)
def test_nothing_is_offered_but_what_exists_and_begins_as_typed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tree)
    for path, note in complete(text):
        assert path.startswith(text)
        found = Path(path).expanduser()
        assert found.is_dir() if path.endswith("/") else note == "file" and found.is_file()


@pytest.mark.parametrize(
    "text", ["absent/", "a/file.json/", "\0", "x\0/", "/x\0y/", "~\0", "x" * 5000 + "/", "\ud800/"]
)
def test_what_is_no_folder_has_nothing_in_it(here: Path, text: str) -> None:
    grow(here, "a/file.json")
    assert complete(text) == []


# --- folders that are no help


def test_a_folder_that_may_not_be_read_has_nothing_to_offer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, for whom no mode is a hindrance: the seam is the question itself."""
    grow(here, "shut/model.safetensors", "open/")
    real = os.scandir

    def scandir(path: str) -> Any:
        if path == "shut/":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert complete("shut/") == []
    assert paths("./") == ["./shut/", "./open/"]


def test_links_that_lead_to_themselves_are_left_out_and_those_that_lead_up_are_folders(here: Path) -> None:
    (here / "round").symlink_to("round")
    (here / "round.json").symlink_to("round.json")
    (here / "one.pth").symlink_to("other.pth")
    (here / "other.pth").symlink_to("one.pth")
    (here / "up").symlink_to(".")
    assert complete("./") == [Candidate("./up/", "")]
    assert paths("up/up/u") == ["up/up/up/"]


def test_a_name_that_is_no_text_leads_to_its_file_all_the_same(here: Path) -> None:
    name = os.fsdecode(b"\xff.json")
    grow(here, name)
    assert paths("./") == [f"./{name}"]
    assert Path(paths("./")[0]).is_file()


def test_of_ten_thousand_entries_only_those_that_begin_so_are_looked_at_and_some_are_offered(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given many files, and a few folders of which the last has a checkpoint
    for number in range(9_700):
        (here / f"file{number}.txt").touch()
    grow(here, *(f"run{number:03}/" for number in range(300)), "run299/params.json")
    looks = 0
    real = os.path.exists

    def exists(path: str) -> bool:
        nonlocal looks
        looks += 1
        return real(path)

    monkeypatch.setattr(os.path, "exists", exists)
    # then
    found = complete("./")
    assert len(found) == MOST
    assert found[:2] == [Candidate("./run299/", "checkpoint"), Candidate("./run000/", "")]
    assert looks <= 300 * MARKERS, "no file is looked into"

    looks = 0
    assert paths("run01") == [f"run01{digit}/" for digit in range(10)]
    assert looks <= 10 * MARKERS


# --- the checkpoints of before


def capture(folder: Path, name: str, path: object, layout: str = "meta") -> None:
    writer = CaptureWriter(folder / f"{name}.meminspect", 0)
    writer.fact("checkpoint", {"path": path, "layout": layout})
    writer.close()


def test_checkpoints_of_the_newest_captures_come_first_and_once_each(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    grow(tmp_path, "one/", "two/")
    capture(tmp_path, "20260101-a", str(two), "safetensors")
    capture(tmp_path, "20260102-b", str(one), "an older look at it")
    capture(tmp_path, "20260103-c", str(one))
    assert recent_checkpoints(tmp_path) == [
        Candidate(str(one), "meta, loaded before"),
        Candidate(str(two), "safetensors, loaded before"),
    ]


def test_checkpoints_that_are_gone_and_captures_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    grow(tmp_path, "kept/", "20260109-empty.meminspect", "20260107-folder.meminspect/")
    (tmp_path / "20260108-other.meminspect").write_text("no database at all\n" * 100)
    capture(tmp_path, "20260106-gone", str(tmp_path / "gone"))
    capture(tmp_path, "20260105-odd", ["no", "path"])
    CaptureWriter(tmp_path / "20260104-refused.meminspect", 0).close()  # which knows of no checkpoint
    capture(tmp_path, "20260101-good", str(tmp_path / "kept"))
    assert recent_checkpoints(tmp_path) == [Candidate(str(tmp_path / "kept"), "meta, loaded before")]


def test_only_so_many_captures_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counted:
        def __init__(self, path: Path) -> None:
            opened.append(path.name)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def fact(self, _: str) -> None:
            return None

    monkeypatch.setattr("meminspect.tui.completion.CaptureReader", Counted)
    grow(tmp_path, *(f"{number:04}.meminspect" for number in range(1000)))
    assert recent_checkpoints(tmp_path) == []
    assert opened == [f"{number:04}.meminspect" for number in range(999, 959, -1)]


def test_without_captures_or_a_home_there_is_nothing_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recent_checkpoints(tmp_path) == []
    assert recent_checkpoints(tmp_path / "absent") == []

    def unknown(_: str) -> None:
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_data_path", unknown)
    assert recent_checkpoints(None) == []


def test_the_users_own_folder_is_looked_at_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    capture(tmp_path / "meminspect" / "captures", "20260101-a", str(tmp_path))
    assert recent_checkpoints(None) == [Candidate(str(tmp_path), "meta, loaded before")]
