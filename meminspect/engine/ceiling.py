"""Which limit a worker ran into, or would have: the run's own, a cgroup's around us, a `ulimit`, the machine's RAM."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.engine.limits import Confinement
    from meminspect.sampling.cgroups import MemoryGroup
    from meminspect.sampling.kernel_log import OomKill
    from meminspect.sampling.machine import Machine

__all__ = ["Ceiling", "Ceilings", "recorded_ceiling"]

_NAME_WIDTH: Final = 40
_ULIMITS: Final = {"ulimit -v": resource.RLIMIT_AS, "ulimit -d": resource.RLIMIT_DATA}


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit.

    Args:
        kind: whose it is.
        nbytes: its size; None if unknown.
        name: of the cgroup, or the shell's name of the limit.
        available_bytes: of RAM: what could be had of it before the run.
    """

    kind: Literal["limit", "cgroup", "ulimit", "ram"]
    nbytes: int | None
    name: str | None = None
    available_bytes: int | None = None

    def document(self) -> dict[str, Any]:
        """As the JSON contract has it."""
        return {
            "kind": self.kind, "bytes": self.nbytes, "name": self.name, "available_bytes": self.available_bytes,
        }  # fmt: skip

    @property
    def words(self) -> str:
        """What it is, as it follows 'under' or 'at'."""
        size = "an unknown size" if self.nbytes is None else format_bytes(self.nbytes)
        if self.kind == "limit":
            return f"its limit of {size}"
        if self.kind == "cgroup":
            name = "" if self.name is None else f" {shown(self.name, _NAME_WIDTH, keep_end=True)}"
            return f"the limit of {size} of the cgroup{name}"
        if self.kind == "ulimit":
            return f"the limit of {size} that {self.name} sets"
        return f"the {size} of RAM that the machine has, {format_bytes(self.available_bytes)} of it free before the run"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """All that bound one worker.

    Args:
        machine: as it was before the run.
        group: the memory cgroup of the worker, if it has one.
        limited: the run's own limit, if it has one; where a cgroup enforces it, that is `group`.
    """

    machine: Machine
    group: MemoryGroup | None
    limited: Confinement | None

    def tightest(self) -> Ceiling:
        """The smallest of the run's limit, those of the cgroups around it, and RAM."""
        found = [self._around(), self._ram()]
        if self.limited is not None:
            found.insert(0, self._own(self.limited))
        return min(
            (ceiling for ceiling in found if ceiling is not None and ceiling.nbytes is not None),
            key=lambda ceiling: ceiling.nbytes or 0,
        )

    def of_kill(self, kill: OomKill | None) -> Ceiling:
        """What the OOM killer says was met; without its word, the tightest that may have been."""
        if kill is None:
            unmet = self.limited is not None and not self.limited.stood_in_the_way()
            return (self._around() or self._ram()) if unmet else self.tightest()
        if kill.cgroup is None:
            return self._ram()
        own = None if self.limited is None else self.limited.group
        if self.limited is not None and own is not None and kill.cgroup.endswith(f"/{own.folder.name}"):
            return self._own(self.limited)
        around = self._around()
        if around is not None and (not kill.cgroup or around.name is None or kill.cgroup.endswith(around.name)):
            return around
        return Ceiling("cgroup", None, kill.cgroup or None)

    def of_allocation(self) -> Ceiling:
        """What refuses an allocation: a limit on address space or data, else how much the kernel promises.

        A cgroup never does: it lets a process allocate, and kills it when it uses that.
        """
        if self.limited is not None and self.limited.group is None:  # RLIMIT_DATA, which is set in the worker alone
            return self._own(self.limited)
        found = [Ceiling("ulimit", resource.getrlimit(number)[0], name) for name, number in _ULIMITS.items()]
        bounded = [ceiling for ceiling in found if ceiling.nbytes != resource.RLIM_INFINITY]
        return min(bounded, key=lambda ceiling: ceiling.nbytes or 0, default=self._ram())

    def _own(self, limited: Confinement) -> Ceiling:
        return Ceiling("limit", limited.limit_bytes)

    def _ram(self) -> Ceiling:
        return Ceiling("ram", self.machine.ram_total_bytes, available_bytes=self.machine.ram_available_bytes)

    def _around(self) -> Ceiling | None:
        """The tightest of the cgroups around the run's own, or around the worker where it has none."""
        if self.group is None:
            return None
        own = self.limited is not None and self.limited.group is not None
        lineage = self.group.lineage()[1 if own else 0 :]
        limit_bytes = lineage[0].limit_bytes() if lineage else None
        if limit_bytes is None or limit_bytes >= self.machine.ram_total_bytes:
            return None
        owner = [group for group in lineage if group.limit_bytes() == limit_bytes][-1]  # the outermost that has it
        name = "/" + str(owner.folder.relative_to(owner.top)).removeprefix(".")
        return Ceiling("cgroup", limit_bytes, name)


def recorded_ceiling(spec: Mapping[str, Any], machine: Mapping[str, Any]) -> Ceiling | None:
    """The tightest that a capture tells of.

    Args:
        spec: its specification.
        machine: MACHINE of the JSON contract.
    """
    limit, around, ram = spec.get("limit_bytes"), machine.get("memory_limit_bytes"), machine.get("ram_total_bytes")
    found = [
        None if limit is None else Ceiling("limit", limit),
        None if around is None else Ceiling("cgroup", around),
        None if ram is None else Ceiling("ram", ram, available_bytes=machine.get("ram_available_bytes")),
    ]
    return min((one for one in found if one is not None), key=lambda one: one.nbytes or 0, default=None)
