"""What the kernel's own log says of processes that its OOM killer took, where one may read it.

Sources: the kernel's Documentation/ABI/testing/dev-kmsg and mm/oom_kill.c (`dump_oom_victim`, `__oom_kill_process`).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.capture.records import Reading
from meminspect.sampling.file_system import PROC

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["KernelLog", "OomKill"]

KMSG: Final = Path("/dev/kmsg")

_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO: the log has the process ids of this one
_LONGEST_RECORD: Final = 8 << 10
_MOST_BYTES: Final = 4 << 20  # more than any kernel keeps: what is written as fast as we read must not hold us
_KIB: Final = 1024

# A record: "priority,sequence,microseconds,flags[,…];text". The priority's upper bits say who wrote it; 0: the kernel.
_RECORD: Final = re.compile(r"(\d+),[^;]*;(.*)")
_CHOICE: Final = re.compile(r"oom-kill:constraint=(\w+),.*?(?:,oom_memcg=(.*))?,task_memcg=.*,pid=(\d+),uid=\d+")
_KILLED: Final = re.compile(
    r"((Memory cgroup out|Out) of memory[^:]*: Killed process (\d+) )\(.*"
    r"(?:anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB.*)"
)


class OomKill(NamedTuple):
    """A process that the OOM killer took."""

    pid: int
    cgroup: str | None  # whose limit was met, as a path from the kernel's root; "" if that is not told
    reading: Reading | None  # what it held then; the high-water mark is not told, and 0
    text: str  # the kernel's words

    @property
    def of_cgroup(self) -> bool:
        """Whether a cgroup's limit was met, and not the machine's."""
        return self.cgroup is not None


class KernelLog:
    """The kernel's log from now on.

    Args:
        kmsg: the log.
        proc: where procfs is mounted.

    Raises:
        OSError: it may not be read, or its process ids are not ours.
    """

    def __init__(self, kmsg: Path = KMSG, proc: Path = PROC) -> None:
        namespace = str((proc / "self" / "ns" / "pid").readlink())
        if namespace != _FIRST_PID_NAMESPACE:
            raise OSError(f"{kmsg} has the process ids of another namespace than {namespace}")
        self.whole = True
        self._descriptor = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def new_kills(self) -> list[OomKill]:
        """The processes taken since it was opened or last asked.

        Where records were overwritten before they could be read, `whole` becomes False.
        """
        return _kills(self._new_text())

    def _new_text(self) -> str:
        parts: list[bytes] = []
        with contextlib.suppress(BlockingIOError):  # no more for now
            while sum(map(len, parts)) < _MOST_BYTES:
                try:
                    part = os.read(self._descriptor, _LONGEST_RECORD)  # of the device one record, whatever fits
                except BrokenPipeError:  # some were overwritten: it goes on with the oldest that is left
                    self.whole = False
                    continue
                except BlockingIOError:
                    raise
                except OSError:
                    self.whole = False
                    break
                if not part:
                    break
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")


def _kills(text: str) -> list[OomKill]:
    """The first line of a kill says whose limit was met, and whom it takes; the second what that one held."""
    kills: dict[int, OomKill] = {}
    choice: tuple[str | None, bool] = ("", False)  # the last one's cgroup, and whether it is of one
    for line in text.split("\n"):
        record = _RECORD.fullmatch(line)
        if record is None or int(record[1]) >> 3:
            continue
        chosen, killed = _CHOICE.match(record[2]), _KILLED.match(record[2])
        if chosen is not None:
            of_cgroup = chosen[1] == "CONSTRAINT_MEMCG"
            choice = (chosen[2] or "" if of_cgroup else None, of_cgroup)
            kills[int(chosen[3])] = OomKill(int(chosen[3]), choice[0], None, "oom-kill: chosen as the victim")
        elif killed is not None:
            of_cgroup = killed[2].startswith("Memory cgroup")
            cgroup = (choice[0] if choice[1] else "") if of_cgroup else None
            heap, file, shared = (int(size) * _KIB for size in killed.groups()[3:])
            kills[int(killed[3])] = OomKill(int(killed[3]), cgroup, Reading(heap, file, shared, 0), killed[1].strip())
    return list(kills.values())
