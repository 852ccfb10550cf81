"""The registry of loading strategies: one file each, one line here, in the order in which they are shown.

Those of other packages come behind ours: see `plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.errors import UsageError
from meminspect.strategies import (
    adapters,
    direct_device,
    init_module,
    lazy,
    lazy_quantize,
    meta_assign,
    mmap_assign,
    naive,
    naive_cast,
    per_tensor_files,
    quantize_after,
    sequential,
    sharded,
    skip_init,
    stream,
    stream_quantize,
)
from meminspect.strategies.libraries import (
    accelerate_dispatch,
    bnb_int8,
    bnb_nf4,
    fabric_init_module,
    fabric_random_init,
    fastsafetensors,
    hf_device_map,
    hf_naive,
    hf_pretrained,
    runai_streamer,
    torchao_int8,
)
from meminspect.strategies.plugins import load_plugins
from meminspect.strategies.strategy import Strategy
from meminspect.strategies.task import CASTABLE, QUANTISATIONS, READ_TO, LoadOptions, LoadTask

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CASTABLE", "LIBRARIES", "NATIVE", "PLUGGED_IN", "QUANTISATIONS", "READ_TO", "STRATEGIES", "LoadOptions",
    "LoadTask", "Strategy", "find",
]  # fmt: skip

NATIVE: Final[Mapping[str, Strategy]] = {
    strategy.id: strategy
    for strategy in (
        stream.STRATEGY,
        mmap_assign.STRATEGY,
        lazy.STRATEGY,
        meta_assign.STRATEGY,
        per_tensor_files.STRATEGY,
        init_module.STRATEGY,
        skip_init.STRATEGY,
        sharded.STRATEGY,
        sequential.STRATEGY,
        direct_device.STRATEGY,
        naive_cast.STRATEGY,
        naive.STRATEGY,
        adapters.STRATEGY,
        stream_quantize.STRATEGY,
        lazy_quantize.STRATEGY,
        quantize_after.STRATEGY,
    )
}
"""Those that are lines of plain PyTorch."""

LIBRARIES: Final[Mapping[str, Strategy]] = {
    strategy.id: strategy
    for strategy in (
        hf_pretrained.STRATEGY,
        hf_device_map.STRATEGY,
        accelerate_dispatch.STRATEGY,
        hf_naive.STRATEGY,
        bnb_int8.STRATEGY,
        bnb_nf4.STRATEGY,
        torchao_int8.STRATEGY,
        fabric_init_module.STRATEGY,
        fabric_random_init.STRATEGY,
        fastsafetensors.STRATEGY,
        runai_streamer.STRATEGY,
    )
}
"""Those that are calls of the field's libraries, where these are installed."""

PLUGGED_IN: Final = load_plugins({*NATIVE, *LIBRARIES})
"""What other packages bring along."""

STRATEGIES: Final[Mapping[str, Strategy]] = {**NATIVE, **LIBRARIES, **PLUGGED_IN.strategies}


def find(id_: str) -> Strategy:
    """The strategy of an id.

    Raises:
        UsageError: there is none.
    """
    try:
        return STRATEGIES[id_]
    except KeyError:
        raise UsageError(f"there is no strategy '{id_}'", f"choose from {', '.join(STRATEGIES)}, or all") from None
