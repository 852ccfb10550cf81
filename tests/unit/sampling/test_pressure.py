"""Pressure on fake procfs and cgroup trees of both versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meminspect.sampling.pressure import Pressure, PressureBooks, pressure_books

if TYPE_CHECKING:
    from pathlib import Path


def psi(some_us: int, full_us: int) -> str:
    return (
        f"some avg10=1.67 avg60=0.98 avg300=4.21 total={some_us}\n"
        f"full avg10=0.00 avg60=0.00 avg300=0.00 total={full_us}\n"
    )


class FakeSystem:
    """A procfs, and a cgroup tree of version 2 that may be mounted."""

    def __init__(self, top: Path) -> None:
        self.proc, self.unified = top / "proc", top / "cgroup"
        self.unified.mkdir()
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        self.member_of("4:memory:/api\n")

    def member_of(self, lines: str, pid: int | str = "self") -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(lines)

    def mount(self, root: str = "/") -> None:
        with (self.proc / "self/mountinfo").open("a") as mounts:
            mounts.write(f"31 22 0:9 {root} {self.unified} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n")

    def machine(self, memory: str = psi(10, 5), io: str = psi(40, 20)) -> None:
        (self.proc / "pressure").mkdir()
        (self.proc / "pressure/memory").write_text(memory)
        (self.proc / "pressure/io").write_text(io)

    def group(self, path: str, memory: str = psi(1, 2), io: str = psi(3, 4), *, root: bool = False) -> None:
        folder = self.unified / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.pressure").write_text(memory)
        (folder / "io.pressure").write_text(io)
        if not root:
            (folder / "cgroup.type").write_text("domain\n")


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def found(system: FakeSystem, pid: int | str = "self") -> tuple[str, Pressure | None] | None:
    books: PressureBooks | None = pressure_books(pid, system.proc)
    return None if books is None else (books.scope, books.read())


def test_given_a_group_of_version_2_when_asked_then_its_own_pressure_and_not_the_machines(system: FakeSystem):
    system.machine()
    system.mount()
    system.member_of("0::/user.slice/run.scope\n", 7)
    system.group("user.slice/run.scope")

    assert found(system, 7) == ("cgroup", Pressure(1, 2, 3, 4))


def test_given_a_container_that_sees_its_own_group_as_the_root_when_asked_then_it_is_a_groups(system: FakeSystem):
    system.machine()
    system.mount(root="/docker/abc")
    system.member_of("0::/docker/abc\n")
    system.group("")

    assert found(system) == ("cgroup", Pressure(1, 2, 3, 4))


def test_given_the_root_of_all_groups_when_asked_then_it_is_the_machines(system: FakeSystem):
    system.machine()
    system.mount()
    system.member_of("4:memory:/api\n0::/\n")
    system.group("", root=True)

    assert found(system) == ("machine", Pressure(10, 5, 40, 20))


@pytest.mark.parametrize("lines", ["4:memory:/api\n", "0::/../elsewhere\n", "0::/absent\n", ""])
def test_given_version_1_or_a_group_out_of_sight_when_asked_then_the_machines(system: FakeSystem, lines: str):
    system.machine()
    system.mount()
    system.member_of(lines)

    assert found(system) == ("machine", Pressure(10, 5, 40, 20))


def test_given_a_group_that_does_not_count_when_asked_then_the_machines(system: FakeSystem):
    system.machine()
    system.mount()
    system.member_of("0::/run.scope\n")
    system.group("run.scope", memory="")

    assert found(system) == ("machine", Pressure(10, 5, 40, 20))


def test_given_a_kernel_without_pressure_when_asked_then_nothing(system: FakeSystem):
    assert found(system) is None


def test_given_a_process_that_is_gone_when_asked_then_the_machines(system: FakeSystem):
    system.machine()

    assert found(system, 4711) == ("machine", Pressure(10, 5, 40, 20))


@pytest.mark.parametrize("text", ["", "some avg10=0.00 total=4\n", "full total=4\n", "nonsense\n"])
def test_given_half_of_the_counts_when_read_then_unknown_and_never_zero(system: FakeSystem, text: str):
    system.machine(io=text)

    assert found(system) is None


def test_given_books_that_vanish_when_read_then_unknown(system: FakeSystem):
    system.machine()
    books = pressure_books("self", system.proc)
    (system.proc / "pressure/io").unlink()

    assert books is not None
    assert books.read() is None
