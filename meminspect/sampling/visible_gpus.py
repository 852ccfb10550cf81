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

    Args:
        gpus: all that the driver lists, in its order, by bus.
        environment: CUDA_VISIBLE_DEVICES in it names some by number or by the beginning of a UUID; what comes after
            the first that does not exist is not seen. A number counts by bus, as under CUDA_DEVICE_ORDER=PCI_BUS_ID
            and wherever all GPUs are alike: CUDA's guess at the fastest cannot be told from outside.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return tuple(gpus) if named is None else tuple(_named(gpus, named))


def _named(gpus: Sequence[Gpu], named: str) -> Iterator[Gpu]:
    for name in map(str.strip, named.split(",")):
        if name.isascii() and name.isdigit():
            found = gpus[int(name) : int(name) + 1]
        else:
            found = [gpu for gpu in gpus if name.startswith("GPU-") and (gpu.uuid or "").startswith(name)]
        if len(found) != 1:
            return
        yield found[0]
