from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sampling_processes import REPOSITORY

from meminspect.sampling import cgroups
from meminspect.sampling.cgroups import MemoryGroup, memory_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB, MIB = 1 << 30, 1 << 20
UNLIMITED_V1 = 9223372036854771712
UNLIMITED_V1_64K_PAGES = 0x7FFFFFFFFFFF0000


class FakeSystem:
    """A procfs and cgroup trees under one folder."""

    def __init__(self, top: Path) -> None:
        self.proc = top / "proc"
        self.memory_v1 = top / "cgroup/memory"
        self.unified = top / "cgroup/unified"
        self._mounts: list[str] = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw"]
        (self.proc / "self").mkdir(parents=True)
        self.member_of("")

    def mount_v1(self, root: str = "/") -> None:
        self.memory_v1.mkdir(parents=True)
        other = self.memory_v1.parent / "cpu,cpuacct"
        self._mount(f"{other} rw,nosuid shared:7 - cgroup cgroup rw,cpu,cpuacct", "/")
        self._mount(f"{self.memory_v1} rw,nosuid shared:8 - cgroup cgroup rw,memory", root)

    def mount_v2(self, root: str = "/") -> None:
        self.unified.mkdir(parents=True)
        self._mount(f"{self.unified} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate", root)

    def member_of(self, lines: str, pid: int | str = "self") -> None:
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "cgroup").write_text(lines)

    def _mount(self, rest: str, root: str) -> None:
        self._mounts.append(f"{30 + len(self._mounts)} 22 0:{len(self._mounts)} {root} {rest}")
        (self.proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in self._mounts))


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def v1_group(
    folder: Path, limit: int, used: int = 0, inactive: int = 0, inherited: int = UNLIMITED_V1, kills: int = 0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"cache 5\ninactive_file 1\nhierarchical_memory_limit {min(limit, inherited)}\n"
        f"total_cache 5\ntotal_inactive_file {inactive}\n"
    )
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")


def v2_group(folder: Path, limit: int | str, used: int = 0, inactive: int = 0, kills: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 5\ninactive_file {inactive}\nactive_file 3\n")
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 4\noom_kill {kills}\noom_group_kill 0\n")


def test_given_v2_when_a_parent_is_tighter_then_its_limit_counts(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/user.slice/run.scope\n")
    v2_group(system.unified / "user.slice", 2 * GIB)
    v2_group(system.unified / "user.slice/run.scope", 4 * GIB)

    assert cgroups.memory_limit_bytes(system.proc) == 2 * GIB


def test_given_v2_when_room_is_asked_then_siblings_use_counts_and_inactive_files_do_not(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/user.slice/run.scope\n")
    v2_group(system.unified / "user.slice", 4 * GIB, used=3 * GIB, inactive=512 * MIB)
    v2_group(system.unified / "user.slice/run.scope", 2 * GIB, used=100 * MIB)

    assert cgroups.memory_used_bytes(system.proc) == 100 * MIB
    assert cgroups.available_bytes(system.proc) == 1536 * MIB


def test_given_v2_without_limits_when_asked_then_none_and_not_a_number(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/run.scope\n")
    v2_group(system.unified / "run.scope", "max", used=MIB)

    assert cgroups.memory_limit_bytes(system.proc) is None
    assert cgroups.available_bytes(system.proc) is None
    assert cgroups.memory_used_bytes(system.proc) == MIB


def test_given_v2_groups_without_the_memory_controller_when_asked_then_those_around_them_count(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/user.slice/session.scope\n")
    (system.unified / "user.slice/session.scope").mkdir(parents=True)
    v2_group(system.unified / "user.slice", GIB)

    assert cgroups.memory_limit_bytes(system.proc) == GIB
    assert cgroups.memory_used_bytes(system.proc) is None


def test_given_v1_when_asked_then_limits_use_and_room_are_those_of_the_memory_hierarchy(system: FakeSystem):
    system.mount_v1()
    system.member_of("5:cpu,cpuacct:/elsewhere\n4:memory:/api/run\n1:name=systemd:/init.scope\n")
    v1_group(system.memory_v1, UNLIMITED_V1, used=9 * GIB)
    v1_group(system.memory_v1 / "api", 3 * GIB, used=GIB, inactive=GIB // 2)
    v1_group(system.memory_v1 / "api/run", UNLIMITED_V1, used=GIB // 4, inherited=3 * GIB)

    assert cgroups.memory_limit_bytes(system.proc) == 3 * GIB
    assert cgroups.memory_used_bytes(system.proc) == GIB // 4
    assert cgroups.available_bytes(system.proc) == 2 * GIB + GIB // 2


@pytest.mark.parametrize("unlimited", [UNLIMITED_V1, UNLIMITED_V1_64K_PAGES])
def test_given_v1s_largest_number_when_asked_then_it_is_no_limit(system: FakeSystem, unlimited: int):
    system.mount_v1()
    system.member_of("4:memory:/\n")
    v1_group(system.memory_v1, unlimited, inherited=unlimited)

    assert cgroups.memory_limit_bytes(system.proc) is None
    assert cgroups.available_bytes(system.proc) is None


def test_given_a_hybrid_system_when_asked_then_the_hierarchy_that_has_the_controller_counts(system: FakeSystem):
    system.mount_v2()
    system.mount_v1()
    system.member_of("4:memory:/process_api/eaef\n0::/\n")
    v1_group(system.memory_v1 / "process_api/eaef", GIB)

    group = memory_group(proc=system.proc)

    assert group == MemoryGroup(system.memory_v1 / "process_api/eaef", system.memory_v1, 1)
    assert cgroups.memory_limit_bytes(system.proc) == GIB


def test_given_a_v1_container_without_namespace_when_asked_then_its_path_is_read_from_its_mounts_root(
    system: FakeSystem,
):
    system.mount_v1(root="/docker/abc")
    system.member_of("4:memory:/docker/abc/worker\n")
    v1_group(system.memory_v1, 2 * GIB)
    v1_group(system.memory_v1 / "worker", GIB)

    group = memory_group(proc=system.proc)

    assert group is not None
    assert group.folder == system.memory_v1 / "worker"


@pytest.mark.parametrize("path", ["/docker/abc", "/kubepods/pod1/elsewhere", "/../sibling", "/docker/abcdef"])
def test_given_a_path_that_is_not_visible_when_asked_then_the_mounts_root_stands_for_it(system: FakeSystem, path: str):
    system.mount_v1(root="/docker/abc")
    system.member_of(f"4:memory:{path}\n")
    v1_group(system.memory_v1, 2 * GIB)
    v1_group(system.memory_v1.parent / "sibling", MIB)

    assert cgroups.memory_limit_bytes(system.proc) == 2 * GIB


def test_given_a_namespaced_mount_from_outside_when_asked_then_its_root_stands_for_the_group(system: FakeSystem):
    system.mount_v2(root="/../../..")
    system.member_of("0::/\n")
    v2_group(system.unified, GIB, used=MIB)

    assert cgroups.memory_limit_bytes(system.proc) == GIB


def test_given_a_pods_v1_limit_out_of_sight_when_asked_then_the_inherited_limit_counts(system: FakeSystem):
    system.mount_v1(root="/kubepods/pod1/abc")
    system.member_of("4:memory:/kubepods/pod1/abc\n")
    v1_group(system.memory_v1, UNLIMITED_V1, used=MIB, inherited=GIB)

    assert cgroups.memory_limit_bytes(system.proc) == GIB
    assert cgroups.available_bytes(system.proc) == GIB - MIB


def test_given_more_use_than_limit_when_asked_for_room_then_zero_and_never_more_than_the_limit(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/a\n")
    v2_group(system.unified / "a", GIB, used=2 * GIB)
    assert cgroups.available_bytes(system.proc) == 0

    v2_group(system.unified / "a", GIB, used=MIB, inactive=2 * MIB)
    assert cgroups.available_bytes(system.proc) == GIB


@pytest.mark.parametrize(("high", "room"), [("max", 3 * GIB), (2 * GIB, GIB), (GIB // 2, 0)])
def test_given_v2_when_a_group_is_slowed_down_early_then_room_ends_there_though_no_limit_does(
    system: FakeSystem, high: int | str, room: int
):
    system.mount_v2()
    system.member_of("0::/user.slice/run.scope\n")
    v2_group(system.unified / "user.slice", 4 * GIB, used=GIB)
    v2_group(system.unified / "user.slice/run.scope", "max", used=GIB)
    (system.unified / "user.slice/memory.high").write_text(f"{high}\n")

    assert cgroups.memory_limit_bytes(system.proc) == 4 * GIB
    assert cgroups.available_bytes(system.proc) == room


def test_given_v2_limits_three_deep_when_asked_then_each_group_s_own_room_and_the_tightest_of_them(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/a/b/c\n")
    v2_group(system.unified / "a", 8 * GIB, used=7 * GIB)
    v2_group(system.unified / "a/b", 6 * GIB, used=2 * GIB, inactive=GIB)
    v2_group(system.unified / "a/b/c", "max", used=2 * GIB)

    assert cgroups.memory_limit_bytes(system.proc) == 6 * GIB
    assert cgroups.available_bytes(system.proc) == GIB


@pytest.mark.parametrize("version", [1, 2])
def test_given_groups_that_lack_files_when_asked_then_what_is_there_counts(system: FakeSystem, version: int):
    (system.mount_v1 if version == 1 else system.mount_v2)()
    system.member_of("4:memory:/a/b\n0::/a/b\n")
    top = system.memory_v1 if version == 1 else system.unified
    if version == 1:
        v1_group(top / "a/b", 2 * GIB, used=GIB)
    else:
        v2_group(top / "a/b", 2 * GIB, used=GIB)
    for path in (top / "a/b").iterdir():
        if path.name not in ("memory.limit_in_bytes", "memory.max"):
            path.unlink()

    assert cgroups.memory_limit_bytes(system.proc) == 2 * GIB
    assert cgroups.available_bytes(system.proc) == 2 * GIB  # what it uses is not counted
    assert cgroups.memory_used_bytes(system.proc) is None
    group = memory_group(proc=system.proc)
    assert group is not None
    assert group.peak_bytes() is group.file_bytes() is group.oom_kills() is None
    assert not group.met_limit()


def test_given_a_hybrid_system_whose_memory_is_unified_when_asked_then_v1s_other_hierarchies_are_passed_over(
    system: FakeSystem,
):
    system.mount_v2()
    system.mount_v1()
    system.member_of("5:cpu,cpuacct:/elsewhere\n1:name=systemd:/init.scope\n0::/a\n")
    v1_group(system.memory_v1 / "elsewhere", MIB)
    v2_group(system.unified / "a", GIB)

    assert cgroups.memory_limit_bytes(system.proc) == GIB


@pytest.mark.parametrize("version", [1, 2])
def test_given_a_container_with_a_namespace_of_its_own_when_asked_then_its_groups_begin_at_the_mount(
    system: FakeSystem, version: int
):
    # given that both are told as the namespace's own root has them
    if version == 1:
        system.mount_v1()
        system.member_of("4:memory:/job\n")
        v1_group(system.memory_v1, 2 * GIB, used=GIB)
        v1_group(system.memory_v1 / "job", UNLIMITED_V1, used=MIB, inherited=2 * GIB)
    else:
        system.mount_v2()
        system.member_of("0::/job\n")
        v2_group(system.unified, 2 * GIB, used=GIB)
        v2_group(system.unified / "job", "max", used=MIB)

    assert cgroups.memory_limit_bytes(system.proc) == 2 * GIB
    assert cgroups.available_bytes(system.proc) == GIB


@pytest.mark.parametrize("lines", ["", "1:name=systemd:/\n", "0::/\n"])
def test_given_no_memory_hierarchy_when_asked_then_everything_is_unknown(system: FakeSystem, lines: str):
    system.mount_v1()
    system.member_of(lines)

    assert memory_group(proc=system.proc) is None
    assert cgroups.memory_limit_bytes(system.proc) is None
    assert cgroups.memory_used_bytes(system.proc) is None
    assert cgroups.available_bytes(system.proc) is None


def test_given_no_procfs_when_asked_then_everything_is_unknown(tmp_path: Path):
    assert cgroups.memory_limit_bytes(tmp_path) is None
    assert cgroups.oom_kills(1, tmp_path) is None
    assert cgroups.system_oom_kills(tmp_path) is None


def test_given_another_process_when_asked_for_kills_then_its_groups_counter(system: FakeSystem):
    system.mount_v2()
    system.member_of("0::/a\n")
    system.member_of("0::/b\n", pid=17)
    v2_group(system.unified / "a", "max", kills=1)
    v2_group(system.unified / "b", "max", kills=7)

    assert cgroups.oom_kills(17, system.proc) == 7
    assert cgroups.oom_kills(18, system.proc) is None


def test_given_v1_when_asked_for_kills_then_its_own_file_and_none_where_the_kernel_does_not_count(system: FakeSystem):
    system.mount_v1()
    system.member_of("4:memory:/a\n", pid=17)
    v1_group(system.memory_v1 / "a", GIB, kills=3)
    assert cgroups.oom_kills(17, system.proc) == 3

    (system.memory_v1 / "a/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\n")  # Linux before 4.13
    assert cgroups.oom_kills(17, system.proc) is None


def test_given_vmstat_when_asked_for_the_systems_kills_then_that_line(system: FakeSystem):
    (system.proc / "vmstat").write_text("nr_free_pages 5\noom_kill 12\noom_kill_other 3\n")

    assert cgroups.system_oom_kills(system.proc) == 12


def test_given_the_real_kernel_when_asked_then_the_answers_are_sane():
    limit, room = cgroups.memory_limit_bytes(), cgroups.available_bytes()

    assert (limit is None) == (room is None)
    assert limit is None or 0 <= (room or 0) <= limit
    assert (cgroups.system_oom_kills() or 0) >= 0


@contextlib.contextmanager
def real_group(limit: int) -> Iterator[MemoryGroup]:
    """A cgroup of the real kernel below our own, with a limit and no swap."""
    own = memory_group()
    if own is None:
        pytest.skip("no memory cgroup is mounted")
    group = MemoryGroup(own.folder / f"meminspect-test-{os.getpid()}", own.top, own.version)
    try:
        group.folder.mkdir()
        (group.folder / ("memory.max" if group.version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
        with contextlib.suppress(OSError):  # where the kernel does not limit swap, there is mostly none
            (group.folder / ("memory.swap.max" if group.version == 2 else "memory.swappiness")).write_text("0")
    except OSError:
        with contextlib.suppress(OSError):
            group.folder.rmdir()
        pytest.skip("memory cgroups are not ours to make here")
    try:
        yield group
    finally:
        group.folder.rmdir()


GREEDY = """
import os, sys
open(os.path.join(sys.argv[1], "cgroup.procs"), "w").write("0")
from meminspect.sampling import cgroups
print(cgroups.memory_limit_bytes(), cgroups.memory_group().folder, flush=True)
sys.stdin.readline()
block = bytearray(b"x") * (1 << 30)
"""


def test_given_a_real_group_when_a_process_in_it_exceeds_the_limit_then_limit_and_kill_are_seen():
    with real_group(64 * MIB) as group:
        with subprocess.Popen(
            [sys.executable, "-c", GREEDY, str(group.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            said = child.stdout.readline()
            held = memory_group(child.pid)
            before = held.oom_kills() if held else None
            child.stdin.write("\n")
            child.stdin.close()
            status = child.wait()

        assert said.split() == [str(64 * MIB), str(group.folder)]
        assert status == -signal.SIGKILL
        assert held == group
        assert before == 0
        assert held.oom_kills() == 1


def test_given_either_version_when_a_limit_is_set_then_swap_is_no_way_out(tmp_path: Path):
    for folder, version, names, written in (
        (tmp_path / "v1", 1, ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), (str(GIB), str(GIB))),
        (tmp_path / "v2", 2, ("memory.max", "memory.swap.max"), (str(GIB), "0")),
    ):
        folder.mkdir()
        (folder / names[1]).touch()

        MemoryGroup(folder, tmp_path, version).set_limit(GIB)

        assert tuple((folder / name).read_text() for name in names) == written


def test_given_no_account_of_swap_when_a_limit_is_set_then_memory_alone_is_limited(tmp_path: Path):
    MemoryGroup(tmp_path, tmp_path, 1).set_limit(GIB)

    assert [path.name for path in tmp_path.iterdir()] == ["memory.limit_in_bytes"]


def test_given_no_account_of_swap_when_a_limit_is_set_then_the_kernel_is_asked_not_to_swap(tmp_path: Path):
    (tmp_path / "memory.swappiness").write_text("60")

    MemoryGroup(tmp_path, tmp_path, 1).set_limit(GIB)

    assert (tmp_path / "memory.swappiness").read_text() == "0"


@pytest.mark.parametrize(
    ("version", "files", "never", "once"),
    [
        (
            1,
            {"memory.limit_in_bytes": GIB},
            {"memory.max_usage_in_bytes": GIB // 2},
            {"memory.max_usage_in_bytes": GIB},
        ),
        (2, {}, {"memory.events": "max 9\noom 0\noom_kill 1\n"}, {"memory.events": "max 9\noom 1\n"}),
    ],
)
def test_whether_a_limit_stood_in_the_way_is_the_kernel_s_word(
    tmp_path: Path, version: int, files: dict[str, object], never: dict[str, object], once: dict[str, object]
):
    group = MemoryGroup(tmp_path, tmp_path, version)
    assert not group.met_limit()
    for state, met in (({**files, **never}, False), (once, True)):
        for name, content in state.items():
            (tmp_path / name).write_text(str(content))
        assert group.met_limit() is met


@pytest.mark.parametrize(
    ("version", "peak", "stat"),
    [
        (1, "memory.max_usage_in_bytes", "cache 1\nshmem 1\ntotal_cache 50\ntotal_shmem 8\n"),
        (2, "memory.peak", "anon 9\nfile 50\nshmem 8\n"),
    ],
)
def test_given_a_group_when_its_books_are_read_then_shared_memory_is_no_file(
    tmp_path: Path, version: int, peak: str, stat: str
):
    group = MemoryGroup(tmp_path, tmp_path, version)
    assert (group.peak_bytes(), group.file_bytes()) == (None, None)

    (tmp_path / peak).write_text("77\n")
    (tmp_path / "memory.stat").write_text(stat)

    assert (group.peak_bytes(), group.file_bytes()) == (77, 42)


@pytest.mark.parametrize(
    ("version", "files", "own_limit"),
    [
        (2, {"memory.max": str(GIB)}, GIB),
        (2, {"memory.max": "max"}, None),
        (2, {}, None),  # a group without the memory controller
        (1, {"memory.limit_in_bytes": str(2 * GIB), "memory.stat": f"hierarchical_memory_limit {GIB}"}, GIB),
        (1, {"memory.limit_in_bytes": str(UNLIMITED_V1)}, None),
    ],
)
def test_a_groups_own_limit_is_not_that_of_the_groups_around_it(
    tmp_path: Path, version: int, files: dict[str, str], own_limit: int | None
) -> None:
    # given a tighter one around it, which version 1 tells of in the group itself
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "memory.max").write_text(str(MIB))
    for name, text in files.items():
        (folder / name).write_text(text)
    assert MemoryGroup(folder, tmp_path, version).own_limit_bytes() == own_limit


def test_given_a_limit_that_may_not_be_read_when_asked_then_why_there_is_none_to_tell(tmp_path: Path):
    group = MemoryGroup(tmp_path, tmp_path, 2)

    assert group.why_no_limit() == f"no memory cgroup can be seen at {tmp_path}"
    (tmp_path / "cgroup.procs").touch()
    assert group.why_no_limit() == ""
    (tmp_path / "memory.max").mkdir()  # which cannot be read, by root neither
    assert group.limit_bytes() is None
    assert group.why_no_limit() == f"{tmp_path}/memory.max may not be read here"
