from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from meminspect import page_cache
from meminspect.sampling.procfs import ProcessGone, ProcessMemory, parse_sizes, parse_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
PLANTED = 32 * MIB
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def own() -> Iterator[ProcessMemory]:
    with ProcessMemory("self") as memory:
        yield memory


def touch(mapping: mmap.mmap, *, write: bool = True) -> None:
    """Make every page resident, without an allocation of our own."""
    for at in range(0, len(mapping), mmap.PAGESIZE):
        if write:
            mapping[at] = 1
        else:
            _ = mapping[at]


@contextlib.contextmanager
def a_child() -> Iterator[int]:
    """A process that waits until it is killed; reaped at the end if the test has not."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield child.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        assert child.stdin is not None
        child.stdin.close()
        child.wait()


def kill_unreaped(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("flags", "pool"),
    [(PRIVATE, "heap_bytes"), (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, "pinned_bytes")],
)
def test_given_touched_memory_when_read_then_its_pool_grows_by_it_and_the_others_do_not(
    own: ProcessMemory, flags: int, pool: str
):
    before = own.reading()
    with mmap.mmap(-1, PLANTED, flags=flags) as mapping:
        untouched = own.reading()
        touch(mapping)
        after = own.reading()

    grown = {
        name: getattr(after, name) - getattr(before, name) for name in ("heap_bytes", "file_bytes", "pinned_bytes")
    }
    assert abs(untouched.heap_bytes - before.heap_bytes) <= MIB
    assert abs(grown.pop(pool) - PLANTED) <= MIB
    assert all(abs(bytes_) <= MIB for bytes_ in grown.values())


def test_given_a_mapped_file_when_its_pages_are_touched_then_the_file_pool_grows(own: ProcessMemory, tmp_path: Path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(PLANTED))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        before = own.reading()
        touch(mapping, write=False)
        after = own.reading()

    assert abs(after.file_bytes - before.file_bytes - PLANTED) <= MIB
    assert abs(after.heap_bytes - before.heap_bytes) <= MIB


def test_given_memory_that_came_and_went_when_read_then_the_mark_keeps_it_until_it_is_reset(own: ProcessMemory):
    own.reset_high_water()
    before = own.reading()
    with mmap.mmap(-1, PLANTED, flags=PRIVATE) as mapping:
        touch(mapping)
    after = own.reading()

    own.reset_high_water()
    reset = own.reading()

    assert abs(after.high_water_bytes - before.high_water_bytes - PLANTED) <= MIB
    assert abs(after.heap_bytes - before.heap_bytes) <= MIB
    rss_bytes = reset.heap_bytes + reset.file_bytes + reset.pinned_bytes
    assert abs(reset.high_water_bytes - rss_bytes) <= MIB


def test_given_a_process_when_read_with_swap_then_the_pools_are_the_same_reading(own: ProcessMemory):
    reading, swap_bytes = parse_status(own.status())

    assert abs(reading.heap_bytes - own.reading().heap_bytes) <= MIB
    assert swap_bytes >= 0


def test_given_fresh_pages_when_touched_then_minor_faults_count_them(own: ProcessMemory):
    before = own.faults()
    with mmap.mmap(-1, PLANTED, flags=PRIVATE) as mapping:
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        touch(mapping)
    after = own.faults()

    assert before is not None
    assert after is not None
    assert after[0] - before[0] >= PLANTED // mmap.PAGESIZE
    assert after[1] >= before[1]


def test_given_a_cold_file_when_read_then_storage_reads_count_it_and_a_second_time_they_do_not(
    own: ProcessMemory, tmp_path: Path
):
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(4 * MIB))
    if not page_cache.evict(path):
        pytest.skip("the pages of this file system cannot be dropped (a tmpfs?)")
    before = own.storage_read_bytes()
    if before is None:
        pytest.skip("this kernel does not account I/O")

    page_cache.warm(path)
    cold = own.storage_read_bytes()
    page_cache.warm(path)
    warm = own.storage_read_bytes()

    assert cold is not None
    assert cold - before >= 4 * MIB
    assert warm == cold


def test_given_no_such_process_when_opened_then_it_is_gone():
    with a_child() as pid:
        kill_unreaped(pid)
        os.waitpid(pid, 0)

        with pytest.raises(ProcessGone):
            ProcessMemory(pid)


def test_given_a_zombie_when_read_then_it_is_gone():
    with a_child() as pid, ProcessMemory(pid) as memory:
        kill_unreaped(pid)

        with pytest.raises(ProcessGone):
            memory.reading()
        with pytest.raises(ProcessGone):
            parse_status(memory.status())
        with pytest.raises(ProcessGone), ProcessMemory(pid) as zombie:
            zombie.reading()


def test_given_a_reaped_process_when_read_then_it_is_gone_even_if_its_number_is_used_again():
    with a_child() as pid, ProcessMemory(pid) as memory:
        assert memory.reading().heap_bytes > 0
        kill_unreaped(pid)
        os.waitpid(pid, 0)

        for ask in (memory.reading, lambda: parse_status(memory.status()), memory.faults, memory.storage_read_bytes):
            with pytest.raises(ProcessGone):
                ask()


def test_given_a_reaped_process_when_its_mark_is_reset_then_it_is_gone():
    with a_child() as pid, ProcessMemory(pid) as memory:
        kill_unreaped(pid)
        os.waitpid(pid, 0)

        with pytest.raises(ProcessGone):
            memory.reset_high_water()


def test_given_a_closed_reader_when_closed_again_then_nothing_and_no_descriptor_leaks():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names is all
    memory = ProcessMemory("self")
    memory.close()
    memory.close()

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(ProcessGone):
        memory.reading()


def test_given_a_command_name_with_parentheses_and_spaces_when_faults_are_read_then_they_are_numbers(tmp_path: Path):
    script = tmp_path / "a) R (b 1"
    script.write_text(f"#!{sys.executable}\nimport sys; print(1, flush=True); sys.stdin.read()\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with ProcessMemory(child.pid) as memory:
            faults = memory.faults()
        child.kill()

    assert faults is not None
    assert faults[0] > 0


STATUS = """Name:\t{name}
State:\tS (sleeping)
Groups:\t{groups}
VmPeak:\t  900000 kB
VmHWM:\t  500000 kB
VmRSS:\t  460000 kB
RssAnon:\t  300000 kB
RssFile:\t  120000 kB
RssShmem:\t   40000 kB
VmSwap:\t   {swap} kB
Threads:\t1
"""


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("python", "0"),
        ("VmHWM:\t1 kB", "0"),
        ("RssFile: 7 kB", "0"),
        ("python", "1000000 " * 900),
    ],
    ids=["usual", "named like a mark", "named like a pool", "a user in many groups"],
)
def test_given_a_procfs_of_any_make_when_read_then_each_figure_is_that_of_its_line(
    tmp_path: Path, name: str, groups: str
):
    (tmp_path / "status").write_text(STATUS.format(name=name, groups=groups, swap=2048))
    (tmp_path / "statm").write_text("225000 115000 40000 500 0 30000 0\n")
    with ProcessMemory(f"..{tmp_path}") as memory:  # /proc/../tmp/…
        reading, swap_bytes = parse_status(memory.status())
        sizes = parse_sizes(memory.sizes())
        assert memory.faults() is memory.storage_read_bytes() is None  # what is not there is not 0

    assert reading == (300000 << 10, 120000 << 10, 40000 << 10, 500000 << 10)
    assert swap_bytes == 2 * MIB
    assert sizes == (75000 * mmap.PAGESIZE, 40000 * mmap.PAGESIZE)


def test_given_anothers_process_when_read_then_its_pools_are_known_and_its_io_is_not(as_nobody: Callable[[str], Any]):
    answer = as_nobody(
        "from meminspect.sampling.procfs import ProcessMemory\n"
        "drop()\n"
        "memory = ProcessMemory(os.getppid())\n"
        "memory.reset_high_water()\n"
        "print(json.dumps([memory.reading().heap_bytes > 0, memory.storage_read_bytes(), memory.faults()[0] > 0]))\n"
    )

    assert answer == [True, None, True]
