"""Asks NVIDIA's driver, in a thread of its own, how the GPUs are doing while a run goes on.

Asking for PCIe's throughput takes 40 ms of waiting for each GPU: nothing for a loop that samples memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import DeviceSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.sampling.nvml import Gpu, Nvml

__all__ = ["DeviceWatch"]

_WAIT_S: Final = 0.1


class DeviceWatch(threading.Thread):
    """Watches GPUs from `start` to `stop`; what it has seen waits for `take`.

    Args:
        nvml: the opened library; None, or no GPUs: there is nothing to watch.
        gpus: those that the process sees, in CUDA's order.
        pid: the process.
    """

    def __init__(self, nvml: Nvml | None, gpus: Sequence[Gpu], pid: int) -> None:
        super().__init__(name="device watch", daemon=True)
        self.failure: BaseException | None = None
        self.cpu_s = 0.0
        self._nvml = nvml
        self._gpus = gpus
        self._pid = pid
        self._seen: deque[DeviceSample] = deque()
        self._stop_requested = threading.Event()

    def take(self) -> list[DeviceSample]:
        """Remove and return what has been seen since the last call."""
        rows = []
        with contextlib.suppress(IndexError):
            while True:
                rows.append(self._seen.popleft())
        return rows

    def stop(self) -> None:
        """End the thread."""
        self._stop_requested.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """The loop; what goes wrong in it is kept in `failure` for whoever joins."""
        try:
            while self._nvml is not None and self._gpus:
                for number, gpu in enumerate(self._gpus):
                    self._seen.append(_asked(self._nvml, number, gpu.index, self._pid))
                if self._stop_requested.wait(_WAIT_S):
                    break
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self.failure = error
        self.cpu_s = time.thread_time()


def _asked(nvml: Nvml, number: int, index: int, pid: int) -> DeviceSample:
    t_ns, memory = time.monotonic_ns(), nvml.memory(index)
    return DeviceSample(
        t_ns, number, memory.used_bytes, memory.free_bytes, nvml.process_bytes(index, pid), *nvml.traffic(index)
    )
