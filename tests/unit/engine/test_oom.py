"""What counts as evidence of an OOM kill, and at which limit it was: with plain files for cgroups."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from meminspect.engine import oom
from meminspect.engine.ceiling import Ceiling, Ceilings, recorded_ceiling
from meminspect.engine.limits import Confinement
from meminspect.engine.oom import OomWatch
from meminspect.sampling.cgroups import MemoryGroup
from meminspect.sampling.kernel_log import OomKill
from meminspect.sampling.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
PID = 4321
MACHINE = Machine(16 * GIB, 12 * GIB, None, None, 0, (), None, "6.1", None)


class FakeLog:
    """The kernel's log, with these kills in it."""

    def __init__(self, *kills: OomKill, whole: bool = True) -> None:
        self.kills, self.whole = list(kills), whole

    def new_kills(self) -> list[OomKill]:
        return self.kills

    def close(self) -> None:
        pass


def a_kill(pid: int, cgroup: str | None = None) -> OomKill:
    return OomKill(pid, cgroup, None, f"Out of memory: Killed process {pid}")


@pytest.fixture
def group(tmp_path: Path) -> MemoryGroup:
    """A run's own group in a batch job's with 4 GiB, in cgroups v2."""
    own = tmp_path / "batch/job-7/meminspect-run-1"
    own.mkdir(parents=True)
    (own.parent / "memory.max").write_text(str(4 * GIB))
    (own / "memory.max").write_text(str(GIB))
    (own / "memory.events").write_text("oom 0\noom_kill 0\n")
    return MemoryGroup(own, tmp_path, 2)


@pytest.fixture
def machine_kills(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the machine has counted; the last holds."""
    counted: list[int | None] = [5]
    monkeypatch.setattr(oom, "system_oom_kills", lambda: counted[-1])
    monkeypatch.setattr(oom, "_log", lambda: None)
    return counted


def counts(group: MemoryGroup, kills: int) -> None:
    (group.folder / "memory.events").write_text(f"oom {kills}\noom_kill {kills}\n")


def test_given_a_log_that_names_the_worker_then_that_is_certain(
    group: MemoryGroup, machine_kills: list[int | None]
) -> None:
    kill = a_kill(PID, "/batch/job-7")
    evidence = OomWatch(group, own=False, log=FakeLog(a_kill(1), kill)).evidence(PID)  # type: ignore[arg-type]
    assert evidence is not None
    assert (evidence.kill, evidence.certain) == (kill, True)
    assert evidence.text == (
        "the kernel's log names it: 'Out of memory: Killed process 4321', over the limit of the cgroup /batch/job-7"
    )


@pytest.mark.parametrize(("own", "certain"), [(True, True), (False, False)])
def test_given_a_counter_of_its_cgroup_then_it_is_certain_only_where_nobody_else_is_in_it(
    group: MemoryGroup, machine_kills: list[int | None], own: bool, certain: bool
) -> None:
    watch = OomWatch(group, own=own)
    assert watch.can_tell
    assert watch.evidence(PID) is None

    counts(group, 1)

    evidence = watch.evidence(PID)
    assert evidence is not None
    assert (evidence.kill, evidence.certain) == (None, certain)
    assert evidence.text.startswith("1 OOM kill was counted in its ")


def test_given_a_cgroup_that_counts_then_what_the_machine_counts_elsewhere_is_none_of_ours(
    group: MemoryGroup, machine_kills: list[int | None]
) -> None:
    watch = OomWatch(group, own=False)
    machine_kills.append(9)
    assert watch.evidence(PID) is None


def test_given_no_cgroup_that_counts_then_the_machine_s_counter_is_what_there_is(
    machine_kills: list[int | None],
) -> None:
    watch = OomWatch(None, own=False)
    machine_kills.append(7)
    evidence = watch.evidence(PID)
    assert evidence is not None
    assert evidence[1:] == (None, False, "the machine")
    assert evidence.text == "2 OOM kills were counted in the machine while it ran"


@pytest.mark.parametrize(("whole", "ours"), [(True, False), (False, True)])
def test_given_a_log_that_names_others_for_all_that_was_counted_then_it_was_not_the_worker(
    group: MemoryGroup, machine_kills: list[int | None], whole: bool, ours: bool
) -> None:
    watch = OomWatch(group, own=False, log=FakeLog(a_kill(1), whole=whole))  # type: ignore[arg-type]
    counts(group, 1)
    assert (watch.evidence(PID) is not None) is ours


def test_given_neither_log_nor_counters_then_nothing_could_tell(machine_kills: list[int | None]) -> None:
    machine_kills.append(None)
    watch = OomWatch(None, own=False)
    assert not watch.can_tell
    assert watch.evidence(PID) is None


# --- which limit


def ceilings(group: MemoryGroup, *, limited: bool = True) -> Ceilings:
    if limited:
        return Ceilings(MACHINE, group, Confinement(GIB, "cgroup v2", group))
    around = MemoryGroup(group.folder.parent, group.top, 2)
    return Ceilings(MACHINE, around, None)


def test_the_tightest_is_the_run_s_own_then_the_cgroup_s_then_ram(group: MemoryGroup) -> None:
    job = Ceiling("cgroup", 4 * GIB, "/batch/job-7")
    ram = Ceiling("ram", 16 * GIB, available_bytes=12 * GIB)
    assert ceilings(group).tightest() == Ceiling("limit", GIB)
    assert ceilings(group, limited=False).tightest() == job
    (group.folder.parent / "memory.max").write_text("max")
    assert ceilings(group, limited=False).tightest() == ram
    assert Ceilings(MACHINE, None, None).tightest() == ram


@pytest.mark.parametrize(
    ("cgroup", "ceiling"),
    [
        ("/kubepods/batch/job-7/meminspect-run-1", Ceiling("limit", GIB)),
        ("/kubepods/batch/job-7", Ceiling("cgroup", 4 * GIB, "/batch/job-7")),
        ("/kubepods", Ceiling("cgroup", None, "/kubepods")),
        ("", Ceiling("cgroup", 4 * GIB, "/batch/job-7")),
        (None, Ceiling("ram", 16 * GIB, available_bytes=12 * GIB)),
    ],
)
def test_given_the_kernel_s_word_then_the_limit_is_the_one_that_it_names(
    group: MemoryGroup, cgroup: str | None, ceiling: Ceiling
) -> None:
    assert ceilings(group).of_kill(a_kill(PID, cgroup)) == ceiling


def test_given_a_counted_kill_then_the_run_s_limit_is_named_only_if_it_was_met(group: MemoryGroup) -> None:
    assert ceilings(group).of_kill(None) == Ceiling("cgroup", 4 * GIB, "/batch/job-7")
    counts(group, 1)
    assert ceilings(group).of_kill(None) == Ceiling("limit", GIB)


def test_an_allocation_is_refused_by_a_ulimit_or_for_want_of_ram_never_by_a_cgroup(
    group: MemoryGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_AS: -1, resource.RLIMIT_DATA: -1}
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limits[number], -1))
    assert ceilings(group).of_allocation().kind == "ram"
    limits.update({resource.RLIMIT_AS: 3 * GIB, resource.RLIMIT_DATA: 2 * GIB})
    assert ceilings(group).of_allocation() == Ceiling("ulimit", 2 * GIB, "ulimit -d")


def test_what_a_capture_tells_of_its_limit() -> None:
    machine = MACHINE.document()
    ram = Ceiling("ram", 16 * GIB, available_bytes=12 * GIB)
    assert recorded_ceiling({}, {}) is None
    assert recorded_ceiling({"limit_bytes": None}, machine) == ram
    assert recorded_ceiling({}, {**machine, "memory_limit_bytes": GIB}) == Ceiling("cgroup", GIB)
    assert recorded_ceiling({"limit_bytes": GIB}, machine) == Ceiling("limit", GIB)
