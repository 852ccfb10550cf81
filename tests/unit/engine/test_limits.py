from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meminspect.engine import limits
from meminspect.engine.limits import Confinement, confined, data, group, parse_limit, scope
from meminspect.engine.limits.data import BIAS, data_limit
from meminspect.engine.limits.group import limited_group
from meminspect.engine.limits.scope import limited_scope
from meminspect.engine.worker_process import WorkerProcess
from meminspect.errors import RunError, UsageError
from meminspect.sampling.cgroups import MemoryGroup, memory_group

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    monkeypatch.setattr(group, "memory_group", lambda: own)
    monkeypatch.setattr(group, "_REMOVAL_S", 0.0)
    with limited_group(GIB) as limited:
        assert limited.group is not None
        assert (limited.group.folder / "memory.max").read_text() == str(GIB)
        assert (limited.mechanism, limited.note) == (f"cgroup v{limited.group.version}", "")
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
    with pytest.raises(RunError, match=r"holds processes.*would evade the limits on it"):
        made_in(monkeypatch, v2_tree(tmp_path, **tree))  # type: ignore[arg-type]


def test_given_no_memory_cgroups_then_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="no memory cgroups are mounted"):
        made_in(monkeypatch, None)


def test_given_a_place_where_no_group_can_be_made_then_the_sentence_says_why_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given neither cgroups nor systemd, and a data limit that is too tight already
    monkeypatch.setattr(group, "memory_group", lambda: MemoryGroup(tmp_path / "absent", tmp_path, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(data.resource, "getrlimit", lambda _: (GIB // 2, GIB // 2))

    with pytest.raises(RunError) as told:
        confined(GIB).__enter__()

    assert told.value.message == (
        f"no memory limit can be set: {tmp_path}/absent: No such file or directory; there is no systemd-run; "
        "RLIMIT_DATA is 512.00 MiB already; limits need root or a delegated cgroup"
    )


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
        assert limited.group is not None
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


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a systemd-run first on the path."""
    path = folder / "systemd-run"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "echo 'Failed to connect to bus: No medium found' >&2; exit 1",
            "systemd-run: Failed to connect to bus",
        ),
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "systemd-run sets no memory limit"),  # in silence
    ],
    ids=["no manager", "no memory controller"],
)
def test_given_a_systemd_that_makes_no_scope_with_a_limit_then_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    program(tmp_path, text, monkeypatch)
    monkeypatch.setattr(scope, "_PATIENCE_S", 0.3)

    with pytest.raises(RunError, match=reason):
        limited_scope(GIB).__enter__()


@pytest.mark.parametrize(
    ("scope_limit", "found"), [(str(GIB), True), (str(2 * GIB), False), ("max", False), (None, False)]
)
def test_a_scope_counts_as_one_where_its_own_limit_is_no_wider_than_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope_limit: str | None, *, found: bool
) -> None:
    # given cgroups v2; a manager without the memory controller makes a scope that has no file for a limit
    made = MemoryGroup(tmp_path / "user.slice/run-r1.scope", tmp_path, 2)
    made.folder.mkdir(parents=True)
    (tmp_path / "user.slice/memory.max").write_text(str(GIB // 2))  # around it, and none of its own
    if scope_limit is not None:
        (made.folder / "memory.max").write_text(scope_limit)
    own = MemoryGroup(tmp_path / "user.slice", tmp_path, 2)
    monkeypatch.setattr(scope, "memory_group", lambda pid="self": own if pid == "self" else made)
    monkeypatch.setattr(scope, "_PATIENCE_S", 0.05)

    if found:
        assert scope.group_of(4711, lambda: True, GIB) == made
    else:
        with pytest.raises(RunError, match="sets no memory limit"):
            scope.group_of(4711, lambda: True, GIB)


def test_given_no_cgroup_of_any_kind_then_a_worker_has_its_data_limited_and_the_bias_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "memory_group", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with confined(GIB) as limited, WorkerProcess(sys.executable, limited) as worker:
        allowed = Path(f"/proc/{worker.pid}/limits").read_text()
        settled = limited.settled(worker.pid, lambda: worker.alive)

    (line,) = [line for line in allowed.splitlines() if line.startswith("Max data size")]
    assert line.split()[3:5] == [str(GIB), str(GIB)]
    assert settled.document(None) == {
        "bytes": GIB, "mechanism": "RLIMIT_DATA", "cgroup_peak_bytes": None, "cgroup_file_bytes": None,
        "note": f"{BIAS}; no memory cgroups are mounted here; there is no systemd-run",
    }  # fmt: skip
    assert settled.stood_in_the_way(), "as far as anybody can tell"


def test_given_a_data_limit_then_an_allocation_beyond_it_fails_and_one_below_does_not() -> None:
    code = "import sys; len(bytearray(int(sys.argv[1])))"
    with data_limit(256 << 20) as limited:
        within, beyond = (
            subprocess.run([sys.executable, "-c", code, str(mib << 20)], preexec_fn=limited.enter, capture_output=True)
            for mib in (64, 320)
        )
    assert within.returncode == 0
    assert b"MemoryError" in beyond.stderr


def test_the_first_means_that_can_be_had_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextlib.contextmanager
    def cannot(_: int) -> Iterator[Confinement]:
        asked.append("cannot")
        raise RunError("no such luck")
        yield

    @contextlib.contextmanager
    def can(nbytes: int) -> Iterator[Confinement]:
        asked.append("can")
        yield Confinement(nbytes, "can")

    monkeypatch.setattr(limits, "_MEANS", (cannot, can, cannot))
    with confined(GIB) as limited:
        assert (limited.mechanism, limited.note, asked) == ("can", "", ["cannot", "can"])


def test_a_limit_has_room_for_a_process() -> None:
    assert parse_limit("1.5GiB") == 3 * GIB // 2
    assert parse_limit("64MiB") == 64 << 20
    for text in ("0", "8", "63MiB"):
        with pytest.raises(UsageError, match="leaves a process no room"):
            parse_limit(text)
    with pytest.raises(UsageError, match="is not a whole number"):
        parse_limit("1.5")
