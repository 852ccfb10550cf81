from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.engine import limits
from meminspect.engine.limits import limited_group, parse_limit
from meminspect.errors import RunError, UsageError
from meminspect.sampling.cgroups import MemoryGroup, memory_group

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def v2_tree(top: Path, *, session_limit: str = "max", slice_hands_on: bool = True) -> MemoryGroup:
    """A session's group in a slice, of plain files; processes are in the session's."""
    session = top / "user.slice/session.scope"
    session.mkdir(parents=True)
    (session / "memory.max").write_text(session_limit)
    (session / "cgroup.subtree_control").write_text("")
    (top / "user.slice/cgroup.subtree_control").write_text("cpu memory pids" if slice_hands_on else "cpu pids")
    return MemoryGroup(session, top, 2)


def made_in(monkeypatch: pytest.MonkeyPatch, own: MemoryGroup | None) -> Path:
    """Where the limited group is made; of plain files, which do not go with a folder as the kernel's do."""
    monkeypatch.setattr(limits, "memory_group", lambda: own)
    monkeypatch.setattr(limits, "_REMOVAL_S", 0.0)
    with limited_group(GIB) as limited:
        assert (limited.group.folder / "memory.max").read_text() == str(GIB)
        return limited.group.folder.parent


def test_given_cgroups_v2_when_our_group_holds_processes_then_the_new_one_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made_in(monkeypatch, v2_tree(tmp_path)) == tmp_path / "user.slice"


@pytest.mark.parametrize(
    "tree", [{"session_limit": str(GIB)}, {"slice_hands_on": False}], ids=["a limit on us", "nothing handed on"]
)
def test_given_cgroups_v2_when_a_group_beside_ours_would_evade_a_limit_or_have_none_then_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: dict[str, object]
) -> None:
    with pytest.raises(RunError, match=r"holds processes.*delegated"):
        made_in(monkeypatch, v2_tree(tmp_path, **tree))  # type: ignore[arg-type]


def test_given_no_memory_cgroups_then_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="no memory cgroups are mounted"):
        made_in(monkeypatch, None)


def test_given_a_place_where_no_group_can_be_made_then_the_sentence_says_why_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory_group", lambda: MemoryGroup(tmp_path / "absent", tmp_path, 1))

    with pytest.raises(RunError, match=r"absent: No such file or directory; limits need root or a delegated cgroup"):
        limited_group(GIB).__enter__()


@pytest.fixture
def own() -> MemoryGroup:
    """Our group, where this user may make others in it."""
    try:
        with limited_group(GIB):
            pass
    except RunError as error:
        pytest.skip(error.message)
    found = memory_group()
    assert found is not None
    return found


@pytest.mark.usefixtures("own")
def test_given_a_group_when_a_process_is_born_in_it_then_it_is_there_and_goes_with_it() -> None:
    with limited_group(GIB) as limited:
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            preexec_fn=limited.enter,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        inside, folder = memory_group(process.pid), limited.group.folder
        assert inside is not None
        assert (inside.folder, inside.limit_bytes()) == (folder, GIB)

    assert not folder.exists()
    with process:
        assert process.wait() == -9


def test_given_a_group_whose_supervisor_is_gone_when_the_next_is_made_then_it_is_removed(own: MemoryGroup) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    ours, stale = (own.folder / f"meminspect-run-{pid}" for pid in (os.getppid(), gone.pid))
    ours.mkdir()
    stale.mkdir()
    try:
        with limited_group(GIB):
            assert ours.exists(), "its process is alive: it is only about to be used"
            assert not stale.exists()
    finally:
        ours.rmdir()


def test_a_limit_has_room_for_a_process() -> None:
    assert parse_limit("1.5GiB") == 3 * GIB // 2
    assert parse_limit("64MiB") == 64 << 20
    for text in ("0", "8", "63MiB"):
        with pytest.raises(UsageError, match="leaves a process no room"):
            parse_limit(text)
    with pytest.raises(UsageError, match="is not a whole number"):
        parse_limit("1.5")
