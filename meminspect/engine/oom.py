"""Whether the kernel's OOM killer took a worker: what its log names, what its counters say, never a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meminspect.sampling.cgroups import system_oom_kills
from meminspect.sampling.kernel_log import KernelLog

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from meminspect.sampling.cgroups import MemoryGroup
    from meminspect.sampling.kernel_log import OomKill

__all__ = ["Evidence", "OomWatch"]


class Evidence(NamedTuple):
    """Of an OOM kill.

    Args:
        text: what it is, for whoever doubts.
        kill: what the kernel's log says of the worker, where it may be read.
        certain: it was the worker; else a process of its cgroup, or of the machine.
        where: what was counted for, where that is not the worker alone.
    """

    text: str
    kill: OomKill | None = None
    certain: bool = True
    where: str = ""


class OomWatch:
    """Watches from before the worker begins; used by one thread.

    Args:
        group: the worker's memory cgroup, if there is one.
        own: nobody else is in it.
        log: the kernel's log; None where it may not be read, and without it the one that there is is tried.
    """

    def __init__(self, group: MemoryGroup | None, *, own: bool, log: KernelLog | None = None) -> None:
        self._group = group
        self._own = own
        self._log = log or _log()
        self._before = self._counts()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()

    @property
    def can_tell(self) -> bool:
        """Whether a kill would have left a trace that we may see."""
        return self._log is not None or any(count is not None for count in self._before)

    def evidence(self, pid: int) -> Evidence | None:
        """That a process which SIGKILL has ended was taken; None where nothing says so."""
        kills = [] if self._log is None else self._log.new_kills()
        for kill in kills:
            if kill.pid == pid:
                whose = f", over the limit of the cgroup {kill.cgroup or '(not named)'}" if kill.of_cgroup else ""
                return Evidence(f"the kernel's log names it: '{kill.text}'{whose}", kill)
        (in_group, on_machine), (group_before, machine_before) = self._counts(), self._before
        if in_group is not None and group_before is not None:
            counted, where = in_group - group_before, "its own cgroup" if self._own else "its cgroup"
        elif on_machine is not None and machine_before is not None:
            counted, where = on_machine - machine_before, "the machine"
        else:
            return None
        if counted <= 0 or (not self._own and self._others_explain(kills, counted)):
            return None
        killed = "1 OOM kill was" if counted == 1 else f"{counted} OOM kills were"
        return Evidence(f"{killed} counted in {where} while it ran", None, self._own and where != "the machine", where)

    def _others_explain(self, kills: list[OomKill], counted: int) -> bool:
        """Whether the log, of which nothing is missing, names others for all that was counted."""
        return self._log is not None and self._log.whole and len(kills) >= counted

    def _counts(self) -> tuple[int | None, int | None]:
        return None if self._group is None else self._group.oom_kills(), system_oom_kills()


def _log() -> KernelLog | None:
    try:
        return KernelLog()
    except OSError:
        return None
