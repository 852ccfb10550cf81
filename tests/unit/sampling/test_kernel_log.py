"""The kernel's log of OOM kills: lines as kernel 6.18 has written them, in a plain file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

import pytest

from meminspect.capture.records import Reading
from meminspect.sampling.kernel_log import KernelLog, OomKill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB = 1024
GROUP = "/process_api/baa8/meminspect-run-12059"
CHOSEN_IN_GROUP = (
    "6,4786,26703800151,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    f"oom_memcg={GROUP},task_memcg={GROUP},task=python3,pid=12060,uid=0\n"
)
KILLED_IN_GROUP = (
    "3,4787,26703800167,-;Memory cgroup out of memory: Killed process 12060 (python3) total-vm:899228kB, "
    "anon-rss:407804kB, file-rss:89532kB, shmem-rss:32656kB, UID:0 pgtables:1336kB oom_score_adj:1000\n"
    " SUBSYSTEM=none\n DEVICE=none\n"
)
CHOSEN = (
    "6,1,5,-,caller=T1;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    "task_memcg=/user.slice,task=a,b) x,pid=77,uid=1000\n"
)
KILLED = (
    "3,2,6,-;Out of memory: Killed process 77 (a,b) anon-rss:1) total-vm:8kB, anon-rss:4kB, file-rss:2kB, "
    "shmem-rss:1kB, UID:1000 pgtables:4kB oom_score_adj:0\n"
)


class Writes(Protocol):
    def __call__(self, *lines: str) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[KernelLog, Writes]]:
    """A log with a kill of long ago, as it is opened, and what appends to it."""
    kmsg = tmp_path / "kmsg"
    kmsg.write_text(KILLED_IN_GROUP.replace("12060", "1"))

    def write(*lines: str) -> None:
        with kmsg.open("a") as file:
            file.writelines(lines)

    with KernelLog(kmsg, in_namespace(tmp_path, "pid:[4026531836]")) as opened:
        yield opened, write


def in_namespace(folder: Path, name: str) -> Path:
    (folder / "proc/self/ns").mkdir(parents=True)
    (folder / "proc/self/ns/pid").symlink_to(name)
    return folder / "proc"


def test_given_a_kill_in_a_cgroup_then_the_process_the_cgroup_and_what_it_held_are_told_once(
    log: tuple[KernelLog, Writes],
) -> None:
    kernel_log, write = log
    assert kernel_log.new_kills() == [], "what was there before is no news"

    write(CHOSEN_IN_GROUP, KILLED_IN_GROUP)

    held = Reading(407804 * KIB, 89532 * KIB, 32656 * KIB, 0)
    (kill,) = kernel_log.new_kills()
    assert kill == OomKill(12060, GROUP, held, "Memory cgroup out of memory: Killed process 12060")
    assert kernel_log.new_kills() == []
    assert kernel_log.whole


def test_given_a_kill_for_want_of_ram_then_no_cgroup_is_named(log: tuple[KernelLog, Writes]) -> None:
    kernel_log, write = log
    write(CHOSEN, KILLED)
    (kill,) = kernel_log.new_kills()
    assert (kill.pid, kill.cgroup, kill.reading) == (77, None, Reading(4 * KIB, 2 * KIB, KIB, 0))


@pytest.mark.parametrize(
    ("lines", "kills"),
    [
        ((CHOSEN_IN_GROUP,), [(12060, GROUP)]),  # the other line is written when the signal has been sent
        ((KILLED_IN_GROUP,), [(12060, "")]),  # the first is left out where there are too many
        ((CHOSEN, KILLED_IN_GROUP), [(77, None), (12060, "")]),  # somebody else's choice says nothing of this one
        ((CHOSEN_IN_GROUP, KILLED_IN_GROUP.replace("12060", "12061")), [(12060, GROUP), (12061, GROUP)]),  # oom.group
    ],
    ids=["chosen", "killed", "another's choice", "a whole group"],
)
def test_what_one_line_alone_tells(
    log: tuple[KernelLog, Writes], lines: tuple[str, ...], kills: list[tuple[int, str | None]]
) -> None:
    kernel_log, write = log
    write(*lines)
    assert [(kill.pid, kill.cgroup) for kill in kernel_log.new_kills()] == kills


@pytest.mark.parametrize(
    "line",
    [
        KILLED.replace("3,2", "11,2"),  # written by a program: facility 1
        KILLED.replace("3,2,6,-;", "3,2,6,-;audit: "),
        "Out of memory: Killed process 5 (x) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:1kB\n",
        "3,2,6,-;Out of memory: Killed process five (x) anon-rss:1kB, file-rss:1kB, shmem-rss:1kB\n",
        "\x00\n,;\n",
    ],
)
def test_what_the_kernel_has_not_said_so_is_no_kill(log: tuple[KernelLog, Writes], line: str) -> None:
    kernel_log, write = log
    write(line)
    assert kernel_log.new_kills() == []


def test_given_records_that_were_overwritten_then_the_rest_is_read_and_the_gap_is_known(
    log: tuple[KernelLog, Writes], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_log, write = log
    write(CHOSEN_IN_GROUP)
    read, gaps = os.read, [BrokenPipeError(errno.EPIPE, "overwritten")]

    def reading(descriptor: int, nbytes: int) -> bytes:
        if gaps:
            raise gaps.pop()
        return read(descriptor, nbytes) or _no_more()

    monkeypatch.setattr(os, "read", reading)
    assert [kill.pid for kill in kernel_log.new_kills()] == [12060]
    assert not kernel_log.whole


def _no_more() -> bytes:
    raise BlockingIOError(errno.EAGAIN, "no more")  # as the device says it


def test_given_another_namespace_of_process_ids_then_the_log_is_not_ours_to_read(tmp_path: Path) -> None:
    (tmp_path / "kmsg").touch()
    with pytest.raises(OSError, match="another namespace"):
        KernelLog(tmp_path / "kmsg", in_namespace(tmp_path, "pid:[4026532000]"))
