"""All that is asked from outside when a worker has ended: did the OOM killer take it, and at which limit?"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from meminspect.engine.cancellation import Ending
from meminspect.engine.ceiling import Ceilings
from meminspect.engine.explain import Circumstances, explain, explain_script
from meminspect.engine.oom import OomWatch
from meminspect.sampling.cgroups import memory_group

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from meminspect.engine.limits import Confinement
    from meminspect.engine.worker_state import WorkerState
    from meminspect.sampling.machine import Machine

__all__ = ["EndWatch"]


class EndWatch:
    """To be made before the worker begins: the kernel's books are compared with what they were then.

    Args:
        machine: as it was before the run.
        limited: the limit that the worker is under, if any.
        timeout_s: how long the worker may take; None for as long as it likes.
        script: it runs the user's own code, which ends as it likes.
    """

    def __init__(
        self, machine: Machine, limited: Confinement | None, timeout_s: float | None, *, script: bool = False
    ) -> None:
        own = None if limited is None else limited.group
        group = own or memory_group()
        self.timeout_s = timeout_s
        self._script = script
        self._oom = OomWatch(group, own=own is not None)
        self._ceilings = Ceilings(machine, group, limited)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._oom.__exit__(kind, value, trace)

    def explained(self, pid: int, status: int, state: WorkerState, ending: Ending) -> dict[str, Any]:
        """The outcome of a run whose worker has been waited for.

        Args:
            pid: the worker's.
            status: its exit status, negative for a signal.
            state: what its events told.
            ending: who has put an end to it.
        """
        sigkill = ending is Ending.ITSELF and status == -signal.SIGKILL
        evidence = self._oom.evidence(pid) if sigkill else None
        kill = None if evidence is None else evidence.kill
        if evidence is not None:
            ceiling = self._ceilings.of_kill(kill)
        elif (state.reports.get("failure") or {}).get("kind") == "out_of_memory":
            ceiling = self._ceilings.of_allocation()
        else:
            ceiling = self._ceilings.tightest()
        held = None if kill is None or kill.reading is None else kill.reading.resident
        known = Circumstances(ending, evidence, self._oom.can_tell, ceiling, self.timeout_s, held)
        return explain_script(status, state, known) if self._script else explain(status, state, known)
