"""NVIDIA GPUs as their driver counts them, through NVML. It answers or it says None: a lost GPU ends no run.

The indices are NVML's (by bus), which `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` do not
change: match devices by `uuid`. The MIG devices that GPUs are cut into come after all GPUs.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["DeviceMemory", "Gpu", "Nvml", "NvmlOpening", "Traffic", "open_nvml"]

_Answer = TypeVar("_Answer")
_KIB: Final = 1024


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
        slice_of: of a MIG device the GPU that it is a part of.
        is_cut: whether the GPU is in MIG mode, so that programs see its MIG devices and not itself.
        maker: whose it is; of others than NVIDIA's the index is among that maker's.
    """

    index: int
    name: str | None
    uuid: str | None
    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None
    unified: bool | None
    slice_of: int | None = None
    is_cut: bool = False
    maker: str = "NVIDIA"

    def document(self) -> dict[str, Any]:
        """The GPU under the names of the JSON contract."""
        return {
            "name": self.name,
            "total_bytes": self.total_bytes,
            "free_bytes": self.free_bytes,
            "unified": self.unified,
            "maker": self.maker,
        }


class DeviceMemory(NamedTuple):
    """Of a GPU; None where it does not tell."""

    used_bytes: int | None  # by everybody, and by the driver
    free_bytes: int | None


class Traffic(NamedTuple):
    """How busy a GPU is; None where it does not tell.

    Args:
        busy_percent: of the last sampling period (up to 1 s) in which a kernel ran.
        to_device_bytes_per_s: over PCIe, in the last 20 ms.
        from_device_bytes_per_s: likewise.
    """

    busy_percent: int | None
    to_device_bytes_per_s: int | None
    from_device_bytes_per_s: int | None


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
        self._cut = {index for index in range(count) if (self._of(index, api.nvmlDeviceGetMigMode) or [0])[0]}
        self._slice_of: dict[int, int] = {}
        for gpu in sorted(self._cut):
            self._add_slices(gpu)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def devices(self) -> list[Gpu]:
        """Every GPU that the driver lists, lost ones included, and then their MIG devices."""
        return [self._device(index) for index in range(len(self._handles))]

    def used_bytes(self, index: int) -> int | None:
        """Memory in use on a GPU, by everybody and the driver; None where it does not tell."""
        return self.memory(index).used_bytes

    def memory(self, index: int) -> DeviceMemory:
        """What is used of a GPU's memory, and what is free."""
        memory = self._of(index, self._api.nvmlDeviceGetMemoryInfo)
        return DeviceMemory(None, None) if memory is None else DeviceMemory(int(memory.used), int(memory.free))

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

    def traffic(self, index: int) -> Traffic:
        """How busy a GPU is, which takes 40 ms to ask: the driver watches PCIe for 20 each way."""
        api = self._api
        rates = self._of(index, api.nvmlDeviceGetUtilizationRates)
        received = self._of(index, api.nvmlDeviceGetPcieThroughput, api.NVML_PCIE_UTIL_RX_BYTES)
        sent = self._of(index, api.nvmlDeviceGetPcieThroughput, api.NVML_PCIE_UTIL_TX_BYTES)
        return Traffic(
            None if rates is None else int(rates.gpu),
            None if received is None else received * _KIB,
            None if sent is None else sent * _KIB,
        )

    def close(self) -> None:
        """Let the driver go."""
        self._handles = []
        with contextlib.suppress(*self._errors):
            self._api.nvmlShutdown()

    def _device(self, index: int) -> Gpu:
        api = self._api
        name, uuid = self._of(index, api.nvmlDeviceGetName), self._of(index, api.nvmlDeviceGetUUID)
        slice_of, is_cut = self._slice_of.get(index), index in self._cut
        if (memory := self._of(index, api.nvmlDeviceGetMemoryInfo)) is not None:
            total, free, used = int(memory.total), int(memory.free), int(memory.used)
            return Gpu(index, name, uuid, total, free, used, False, slice_of, is_cut)
        unified = self._lacks_memory_of_its_own(index)
        return Gpu(index, name, uuid, None, None, None, unified, slice_of, is_cut)

    def _add_slices(self, gpu: int) -> None:
        """Give the MIG devices of a GPU numbers; their places need not follow each other."""
        api = self._api
        for place in range(self._of(gpu, api.nvmlDeviceGetMaxMigDeviceCount) or 0):
            handle = self._ask(api.nvmlDeviceGetMigDeviceHandleByIndex, self._handles[gpu], place)
            if handle is not None:
                self._slice_of[len(self._handles)] = gpu
                self._handles.append(handle)

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

    def _of(self, index: int, function: Callable[..., _Answer], *arguments: object) -> _Answer | None:
        handle = self._handles[index] if 0 <= index < len(self._handles) else None
        return None if handle is None else self._ask(function, handle, *arguments)

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
