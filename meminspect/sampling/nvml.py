"""NVIDIA GPUs as their driver counts them, through NVML. It answers or it says None: a lost GPU ends no run.

The indices are NVML's (by bus), which `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` do not
change: match devices by `uuid`.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Gpu", "Nvml", "NvmlOpening", "open_nvml"]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. What it does not tell is None.

    Args:
        index: NVML's number of it.
        name: the product's name.
        uuid: as in `torch.cuda.get_device_properties(i).uuid`, with the prefix ``GPU-``.
        total_bytes: its memory.
        free_bytes: unused memory.
        used_bytes: everybody's use, the driver's reserve included.
        unified: whether its memory is the machine's RAM (then NVML has no figures of its own).
    """

    index: int
    name: str | None
    uuid: str | None
    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None
    unified: bool | None


class NvmlOpening(NamedTuple):
    """NVML, or the reason in one line why there is none."""

    nvml: Nvml | None
    reason: str


class Nvml:
    """Reads the GPUs through kept handles. Made by `open_nvml`.

    Args:
        api: the module pynvml, initialised.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        # The second is no kind of the first: what unversioned functions raise with a driver older than pynvml.
        self._errors = (api.NVMLError, api.NVMLLibraryMismatchError, UnicodeDecodeError)
        count = self._ask(api.nvmlDeviceGetCount) or 0
        self._handles = [self._ask(api.nvmlDeviceGetHandleByIndex, index) for index in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def devices(self) -> list[Gpu]:
        """Every GPU that the driver lists, lost ones included."""
        return [self._device(index) for index in range(len(self._handles))]

    def used_bytes(self, index: int) -> int | None:
        """Memory in use on a GPU, by everybody and the driver; None where it does not tell."""
        memory = self._of(index, self._api.nvmlDeviceGetMemoryInfo)
        return None if memory is None else int(memory.used)

    def process_bytes(self, index: int, pid: int) -> int | None:
        """Memory that a process uses on a GPU.

        Returns:
            None where the driver does not list the process: it has no context there, or this process sees
            other numbers than the driver's, as in a container with a PID namespace.
        """
        processes = self._of(index, self._api.nvmlDeviceGetComputeRunningProcesses) or ()
        # A process has an entry for each MIG instance that it uses.
        used = [process.usedGpuMemory for process in processes if process.pid == pid]
        return None if not used or None in used else sum(used)

    def close(self) -> None:
        """Let the driver go."""
        self._handles = []
        with contextlib.suppress(*self._errors):
            self._api.nvmlShutdown()

    def _device(self, index: int) -> Gpu:
        api = self._api
        name, uuid = self._of(index, api.nvmlDeviceGetName), self._of(index, api.nvmlDeviceGetUUID)
        if (memory := self._of(index, api.nvmlDeviceGetMemoryInfo)) is not None:
            return Gpu(index, name, uuid, int(memory.total), int(memory.free), int(memory.used), unified=False)
        return Gpu(index, name, uuid, None, None, None, unified=self._lacks_memory_of_its_own(index))

    def _lacks_memory_of_its_own(self, index: int) -> bool | None:
        if self._handles[index] is None:
            return None
        try:
            self._api.nvmlDeviceGetMemoryInfo(self._handles[index])
        except self._api.NVMLError_NotSupported:  # Tegra and GB10, where the GPU allocates from the machine's RAM
            return True
        except self._errors:
            return None
        return False

    def _of(self, index: int, function: Callable[[Any], _Answer]) -> _Answer | None:
        handle = self._handles[index] if 0 <= index < len(self._handles) else None
        return None if handle is None else self._ask(function, handle)

    def _ask(self, function: Callable[..., _Answer], *arguments: object) -> _Answer | None:
        try:
            return function(*arguments)
        except self._errors:
            return None


def open_nvml() -> NvmlOpening:
    """Open the driver's management library, if there is one."""
    try:
        pynvml: Any = importlib.import_module("pynvml")  # which has no types to lose
    except ImportError:
        return NvmlOpening(None, "the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return NvmlOpening(None, "no NVIDIA driver (libnvidia-ml.so.1 not found)")
    except pynvml.NVMLError_DriverNotLoaded:
        return NvmlOpening(None, "the NVIDIA driver is installed but not loaded")
    except pynvml.NVMLError as error:
        return NvmlOpening(None, f"the NVIDIA driver does not answer ({error})")
    return NvmlOpening(Nvml(pynvml), "")
