"""Gives the worker a GPU that is none, and the other processes a torch that could use one.

With this folder and the project's on PYTHONPATH, and NVML's stub (`stubs`), the whole command runs on cuda; with
MEMINSPECT_STAND_IN it does so on xpu or mps, where no library of a driver is asked.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from meminspect.sampling import interpreter, other_gpus
from meminspect.sampling.nvml import Gpu

_KIND = os.environ.get("MEMINSPECT_STAND_IN", "cuda")
_OTHERS = {
    "cuda": (),
    "xpu": (Gpu(0, "Intel GPU", None, None, None, None, unified=False, maker="Intel"),),
    "mps": (Gpu(0, "Apple silicon", None, None, None, None, unified=True, maker="Apple"),),
}
interpreter.torch_version = lambda: {"cuda": "2.13.0+cu130", "xpu": "2.13.0+xpu", "mps": "2.13.0"}[_KIND]
other_gpus.other_gpus = lambda: _OTHERS[_KIND]


def _unverified(model: Any, task: Any, strategy: Any) -> dict[str, object]:
    """In verification's place, for which there are no values."""
    counts = dict.fromkeys(("verified", "mismatched", "missing", "unexpected"), 0)
    return {"expected": len(task.pieces), **counts, "names": {"mismatched": [], "missing": [], "unexpected": []}}


if any(argument.endswith("worker/__main__.py") for argument in sys.orig_argv):
    import cuda_on_meta

    from meminspect.worker import verify

    cuda_on_meta.install()
    verify.verify = _unverified
