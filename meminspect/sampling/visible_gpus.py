"""Which of the driver's GPUs a program sees, and in which order: CUDA's numbers are not NVML's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meminspect.sampling.nvml import Gpu

__all__ = ["HIDDEN", "visible_gpus"]

HIDDEN: Final = "CUDA_VISIBLE_DEVICES hides every GPU"


def visible_gpus(gpus: Sequence[Gpu], environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that CUDA numbers 0, 1, … under an environment (CUDA programming guide, Environment Variables).

    Of a GPU in MIG mode it sees a MIG device in its place, and of several of those only the first (NVIDIA's MIG user
    guide, CUDA_VISIBLE_DEVICES).

    Args:
        gpus: all that the driver lists, in its order, by bus, MIG devices last.
        environment: CUDA_VISIBLE_DEVICES in it names some by number or by the beginning of a UUID, which is MIG-… for
            a MIG device; what comes after the first that does not exist is not seen. A number counts by bus, as under
            CUDA_DEVICE_ORDER=PCI_BUS_ID and wherever all GPUs are alike: CUDA's guess at the fastest cannot be told
            from outside.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    whole = [gpu for gpu in gpus if gpu.slice_of is None]
    seen: list[Gpu] = []
    for gpu in whole if named is None else _named(gpus, whole, named):
        device = _first_slice(gpu, gpus) if gpu.is_cut else gpu
        if device is not None and not (device.slice_of is not None and any(one.slice_of is not None for one in seen)):
            seen.append(device)
    return tuple(seen)


def _first_slice(gpu: Gpu, gpus: Sequence[Gpu]) -> Gpu | None:
    return next((device for device in gpus if device.slice_of == gpu.index), None)


def _named(gpus: Sequence[Gpu], whole: Sequence[Gpu], named: str) -> Iterator[Gpu]:
    for name in map(str.strip, named.split(",")):
        if name.isascii() and name.isdigit():
            found = whole[int(name) : int(name) + 1]
        else:
            found = [gpu for gpu in gpus if name.startswith(("GPU-", "MIG-")) and (gpu.uuid or "").startswith(name)]
        if len(found) != 1:
            return
        yield found[0]
