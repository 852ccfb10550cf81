"""The machine that a checkpoint would be loaded on, at one moment."""

from __future__ import annotations

import os
import platform
import re
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meminspect.devices import index_of, kind_of
from meminspect.sampling import cgroups
from meminspect.sampling.interpreter import OURS, Interpreter, torch_version
from meminspect.sampling.nvml import Gpu, Nvml, open_nvml
from meminspect.sampling.other_gpus import other_gpus
from meminspect.sampling.visible_gpus import HIDDEN, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Machine", "read_machine"]

_OVERCOMMIT: Final = Path("/proc/sys/vm/overcommit_memory")
_MEMINFO: Final = Path("/proc/meminfo")
_THP: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")

NO_LIMIT: Final = "no limit is set"
NO_CGROUPS: Final = "this system has no cgroups"
_NO_CGROUP: Final = "no memory cgroup can be seen here, so a limit of one would not be known"
_NO_MEMINFO: Final = "/proc/meminfo cannot be read here"
_FREE_ONLY: Final = f"only what is free, without what the page cache could give back: {_NO_MEMINFO}"
_NO_THP: Final = "this system has no transparent huge pages, or does not show their mode here"
_NO_GPU: Final = "no NVIDIA GPU"
_MAKERS: Final = {"xpu": "Intel", "mps": "Apple"}
_NO_TORCH: Final = "torch is not installed beside meminspect"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has and allows; unknown or absent is None.

    Args:
        ram_total_bytes: its memory.
        ram_available_bytes: what new processes can have without swapping (MemAvailable).
        memory_limit_bytes: the tightest cgroup limit on this process.
        limit_available_bytes: what the cgroup limits still leave.
        swap_free_bytes: unused swap.
        gpus: those that a process sees: NVIDIA's in CUDA's order, then AMD's, Intel's and Apple's.
        torch_version: of the torch beside us; it is not imported.
        kernel: the kernel's release.
        thp: the mode of transparent huge pages: always, madvise or never.
        largest_mapping_bytes: the most that the kernel lets a process map privately at once; None for no bound.
        reasons: why what is unknown or absent is so, or less than it might be, by the name of the JSON contract.
    """

    ram_total_bytes: int
    ram_available_bytes: int
    memory_limit_bytes: int | None
    limit_available_bytes: int | None
    swap_free_bytes: int | None
    gpus: tuple[Gpu, ...]
    torch_version: str | None
    kernel: str
    thp: str | None
    largest_mapping_bytes: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def limit_is_known(self) -> bool:
        """Whether one knows what the cgroups allow: a limit, or that there is none."""
        reason = self.reasons.get("memory_limit_bytes", NO_LIMIT)
        return self.memory_limit_bytes is not None or reason in (NO_LIMIT, NO_CGROUPS)

    @property
    def usable_bytes(self) -> int:
        """What a new process may take: the machine's available RAM or, if less, what its cgroups leave."""
        if self.limit_available_bytes is None:
            return self.ram_available_bytes
        return min(self.ram_available_bytes, self.limit_available_bytes)

    def torch_of(self, interpreter: Interpreter) -> str | None:
        """The version of torch that an interpreter has."""
        return self.torch_version if interpreter.python is None else interpreter.packages.get("torch")

    def gpus_for(self, device: str, interpreter: Interpreter = OURS) -> tuple[Gpu, ...]:
        """The GPUs that torch numbers under a device's kind; NVIDIA's for the cpu, beside which they are watched."""
        maker = _MAKERS.get(kind_of(device), "NVIDIA")
        if kind_of(device) == "cuda" and "+rocm" in (self.torch_of(interpreter) or ""):
            maker = "AMD"
        return tuple(gpu for gpu in self.gpus if gpu.maker == maker)

    def watched_for(self, device: str, interpreter: Interpreter = OURS) -> tuple[Gpu, ...]:
        """Those of them whose driver tells, while a load goes on, what is used: NVIDIA's."""
        return tuple(gpu for gpu in self.gpus_for(device, interpreter) if gpu.maker == "NVIDIA")

    def gpu(self, device: str, interpreter: Interpreter = OURS) -> Gpu | None:
        """The GPU that a device's name means."""
        gpus, index = self.gpus_for(device, interpreter), index_of(device)
        return gpus[index] if index < len(gpus) else None

    def shares_memory_with(self, device: str, interpreter: Interpreter = OURS) -> bool:
        """Whether that GPU has no memory of its own and uses the machine's, as Jetson, GB10, APUs and Apple's do."""
        gpu = self.gpu(device, interpreter)
        return gpu is not None and bool(gpu.unified)

    def why_no_vram(self, device: str, interpreter: Interpreter = OURS) -> str:
        """In one line why nobody tells how much memory of a GPU is in use; empty where NVML does."""
        gpu = self.gpu(device, interpreter)
        if gpu is None:
            maker = _MAKERS.get(kind_of(device))
            return self.reasons.get("gpus", _NO_GPU) if maker is None else f"no {maker} GPU"
        if gpu.unified:
            return "the GPU has no memory of its own: it uses the machine's"
        if gpu.maker != "NVIDIA":
            return f"what is used is asked of NVIDIA's driver, and this GPU is {gpu.maker}'s"
        return "the GPU does not tell how much of its memory is in use" if gpu.used_bytes is None else ""

    def with_room_of(self, nbytes: int) -> Machine:
        """With so many bytes more to have: those of a process that is to use them for its run."""
        left = self.limit_available_bytes
        return replace(
            self,
            ram_available_bytes=self.ram_available_bytes + nbytes,
            limit_available_bytes=None if left is None else left + nbytes,
        )

    def document(self) -> dict[str, Any]:
        """The machine under the names of the JSON contract (MACHINE)."""
        return {
            "ram_total_bytes": self.ram_total_bytes,
            "ram_available_bytes": self.ram_available_bytes,
            "memory_limit_bytes": self.memory_limit_bytes,
            "swap_free_bytes": self.swap_free_bytes,
            "gpus": [gpu.document() for gpu in self.gpus],
            "torch_version": self.torch_version,
            "kernel": self.kernel,
            "thp": self.thp,
            "reasons": dict(self.reasons),
        }


def read_machine(nvml: Nvml | None = None) -> Machine:
    """Read the machine as it is now.

    Args:
        nvml: the opened NVIDIA library; without it, it is opened for this reading where there is one.
    """
    total_bytes, available_bytes, why_free_only = _ram()
    swap_bytes, free_swap_bytes = _swap()
    group = cgroups.memory_group()
    limit_bytes = None if group is None else group.limit_bytes()
    gpus, why_no_gpus = _gpus(nvml)
    torch, thp = torch_version(), _thp()
    reasons = {
        "ram_available_bytes": why_free_only,
        "swap_free_bytes": _NO_MEMINFO if free_swap_bytes is None else "",
        "memory_limit_bytes": _why_no_limit(group) if limit_bytes is None else "",
        "gpus": why_no_gpus,
        "torch_version": _NO_TORCH if torch is None else "",
        "thp": _NO_THP if thp is None else "",
    }
    return Machine(
        ram_total_bytes=total_bytes,
        ram_available_bytes=available_bytes,
        memory_limit_bytes=limit_bytes,
        limit_available_bytes=None if group is None else group.available_bytes(),
        swap_free_bytes=free_swap_bytes,
        gpus=(*gpus, *other_gpus()),
        torch_version=torch,
        kernel=platform.release(),
        thp=thp,
        largest_mapping_bytes=_largest_mapping_bytes(total_bytes + swap_bytes),
        reasons={name: reason for name, reason in reasons.items() if reason},
    )


def _ram() -> tuple[int, int, str]:
    """All of it, what can be had, and why that is no more than what is free."""
    import psutil

    try:
        memory = psutil.virtual_memory()  # type: ignore[no-untyped-call]
    except OSError:  # a container may hide /proc/meminfo, but not the system call
        pages = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
        total_bytes, free_bytes = (count * os.sysconf("SC_PAGE_SIZE") for count in pages)
        return total_bytes, free_bytes, _FREE_ONLY
    return int(memory.total), int(memory.available), ""


def _swap() -> tuple[int, int | None]:
    """All of it, as far as it is known, and what is free of it."""
    import psutil

    # Of two counts that nobody asks here; /proc/vmstat may be hidden from containers.
    warnings.filterwarnings("ignore", "'sin' and 'sout' swap memory stats", RuntimeWarning)
    try:
        swap = psutil.swap_memory()  # type: ignore[no-untyped-call]
    except OSError:
        return 0, None
    return int(swap.total), int(swap.free)


def _why_no_limit(group: cgroups.MemoryGroup | None) -> str:
    if group is None:
        return _NO_CGROUP if sys.platform == "linux" else NO_CGROUPS
    return group.why_no_limit() or NO_LIMIT


def _gpus(nvml: Nvml | None) -> tuple[Sequence[Gpu], str]:
    """The GPUs, and why there are none to tell of."""
    if nvml is not None:
        return _visible(nvml)
    opening = open_nvml()
    if opening.nvml is None:
        return (), opening.reason
    with opening.nvml:
        return _visible(opening.nvml)


def _visible(nvml: Nvml) -> tuple[Sequence[Gpu], str]:
    listed = nvml.devices()
    visible = visible_gpus(listed)
    return visible, "" if visible else HIDDEN if listed else _NO_GPU


def _largest_mapping_bytes(ram_and_swap_bytes: int, path: Path = _OVERCOMMIT) -> int | None:
    """By the kernel's policy: a private writable mapping counts as a promise of memory, even one of a file.

    The heuristic policy refuses what exceeds RAM and swap together; the strict one keeps to a commit limit
    (https://docs.kernel.org/mm/overcommit-accounting.html; mm/util.c, __vm_enough_memory).
    """
    try:
        policy = path.read_text().strip()
        if policy == "0":
            return ram_and_swap_bytes
        if policy != "2":
            return None
        sizes = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        limit, committed = (int(sizes[name].split()[0]) * 1024 for name in ("CommitLimit", "Committed_AS"))
    except (OSError, ValueError, KeyError):
        return None
    return max(0, limit - committed)


def _thp(path: Path = _THP) -> str | None:
    try:
        chosen = re.search(r"\[(\w+)\]", path.read_text())
    except OSError:
        return None
    return None if chosen is None else chosen[1]
